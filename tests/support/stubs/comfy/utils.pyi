from typing import Any

class ProgressBar:
    total: float
    current: float
    def __init__(self, total: float, node_id: str | None = ...) -> None: ...
    def update_absolute(self, value: float, total: float | None = ..., preview: Any = ...) -> None: ...
