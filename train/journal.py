"""What a run says: lines for people, one JSON object a line for programs, scalars and sheets for TensorBoard."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bfr_core.media.atomic import make_folder, publish
from bfr_core.media.pictures import Picture, write_picture

JOURNAL = "log.jsonl"


class Journal:
    """The journal of a run in its folder.

    Args:
        out: the run's folder.
        main: whether this is the first process; the others are silent and write nothing.
        keep: False for a trial, which speaks but writes nothing.
    """

    def __init__(self, out: Path, *, main: bool = True, keep: bool = True) -> None:
        self.out, self._main, self._keep = out, main, main and keep
        self._board: Any = None
        self._board_missing = False

    def say(self, text: str) -> None:
        """Tell the person at the terminal."""
        if self._main:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say something and keep it in the log."""
        self.say(text)
        self.write({"note": text})

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry to the log, at once."""
        if not self._keep:
            return
        make_folder(self.out)
        with (self.out / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def write_once(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of the run's folder, whole or not at all."""
        if self._keep:
            make_folder(self.out)
            with publish(self.out / name) as file:
                file.write(json.dumps(content, indent=2).encode() + b"\n")

    def scalars(self, figures: Mapping[str, float], total: int) -> None:
        """Show figures in TensorBoard."""
        board = self._open_board()
        if board is not None:
            for name, value in figures.items():
                board.add_scalar(name, value, total)

    def sheet(self, sheet: np.ndarray, total: int) -> Path | None:
        """Write a sheet of pictures, (H, W, 3) uint8, and show it in TensorBoard."""
        if not self._keep:
            return None
        path = self.out / "sheets" / f"{total:010d}.png"
        make_folder(path.parent)
        write_picture(path, Picture(np.ascontiguousarray(sheet)))
        board = self._open_board()
        if board is not None:
            board.add_image("validation", sheet, total, dataformats="HWC")
        return path

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _open_board(self) -> Any:
        if self._keep and self._board is None and not self._board_missing:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._board_missing = True
                self.note("TensorBoard is not installed (pip install tensorboard): its files are not written")
            else:
                self._board = SummaryWriter(str(self.out / "tensorboard"))
        return self._board
