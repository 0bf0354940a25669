from typing import Any

class PreviewImage:
    def __init__(self, image: Any, cls: type | None = ..., **more: Any) -> None: ...
