from dataclasses import dataclass
from typing import Any

class _Input:
    def __init__(self, id: str, **fields: Any) -> None: ...

class _Output:
    def __init__(self, id: str | None = ..., **fields: Any) -> None: ...

class _Type:
    Input: type[_Input]
    Output: type[_Output]

Image: type[_Type]
Mask: type[_Type]
Int: type[_Type]
Float: type[_Type]
Boolean: type[_Type]
String: type[_Type]
Combo: type[_Type]
Video: type[_Type]

class DynamicCombo:
    class Option:
        def __init__(self, key: str, inputs: list[Any]) -> None: ...

    Input: type[_Input]

def Custom(io_type: str) -> type[_Type]: ...

class NodeOutput:
    args: tuple[Any, ...]
    def __init__(self, *args: Any, ui: Any = ..., **more: Any) -> None: ...

@dataclass
class Schema:
    node_id: str
    display_name: str = ...
    category: str = ...
    inputs: list[Any] = ...
    outputs: list[Any] = ...
    description: str = ...
    is_output_node: bool = ...
    search_aliases: list[str] = ...

class ComfyNode:
    hidden: Any
    @classmethod
    def define_schema(cls) -> Schema: ...
