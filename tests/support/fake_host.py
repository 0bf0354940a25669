"""A stand-in for the parts of ComfyUI that the nodes import, so that they are tested where no host is.

It is stricter than a host: an unknown keyword is a TypeError in both, but here every tensor operation also runs
without a device, and what the nodes asked of the host is kept in `FakeHost` to be looked at.

    with FakeHost(tmp_path, newer=True) as host:
        pack = host.load(PROJECT)

`newer` is 0.19; otherwise 0.8, which has no `search_aliases`, no `advanced` and no `intermediate_dtype`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import torch

_INPUT = ("id", "display_name", "optional", "tooltip", "lazy", "extra_dict", "raw_link")
_WIDGET = (*_INPUT, "default", "socketless", "force_input")
_FIELDS = {
    "Image": _INPUT,
    "Mask": _INPUT,
    "Video": _INPUT,
    "Custom": _INPUT,
    "String": (*_WIDGET, "multiline", "placeholder", "dynamic_prompts"),
    "Boolean": (*_WIDGET, "label_on", "label_off"),
    "Int": (*_WIDGET, "min", "max", "step", "control_after_generate", "display_mode"),
    "Float": (*_WIDGET, "min", "max", "step", "round", "display_mode"),
    "Combo": (
        *_INPUT,
        "default",
        "socketless",
        "options",
        "control_after_generate",
        "upload",
        "image_folder",
        "remote",
    ),
}
_DYNAMIC = ("id", "options", "display_name", "optional", "tooltip", "lazy", "extra_dict")
_TYPES = {name: name.upper() for name in ("Image", "Mask", "Video", "String", "Boolean", "Int", "Float")}
_OUTPUT = ("id", "display_name", "tooltip", "is_output_list")
_SCHEMA = (
    *("node_id", "display_name", "category", "inputs", "outputs", "hidden", "description", "is_input_list"),
    *("is_output_node", "is_deprecated", "is_experimental", "is_api_node", "not_idempotent", "enable_expand"),
)
_NEWER_SCHEMA = ("search_aliases", "is_dev_only", "accept_all_inputs", "essentials_category")


class FakeHost:
    """ComfyUI's modules in `sys.modules`, from `__enter__` to `__exit__`."""

    def __init__(self, base: Path, *, newer: bool = True) -> None:
        self.models, self.input, self.output = (base / name for name in ("models", "input", "output"))
        self.temp = base / "temp"
        self.newer = newer
        for folder in (self.models, self.input, self.output, self.temp):
            folder.mkdir(parents=True, exist_ok=True)
        self.progress: list[tuple[float, int]] = []
        """Every value of every progress bar, with its total."""
        self.previews: list[Any] = []
        """Every live picture: format, picture, longest side."""
        self.cancel_after: int | None = None
        """Checks for a cancel that pass before one raises."""
        self.loaded: list[Any] = []
        """Models the nodes asked to have loaded, in order."""
        # 0.20 made it a BaseException; nodes must let both through.
        self.interrupted = type("InterruptProcessingException", (BaseException if newer else Exception,), {})
        self._kept: dict[str, ModuleType] = {}
        self._packs: list[str] = []

    def __enter__(self) -> FakeHost:
        modules = {**self._api(), **self._comfy(), "folder_paths": self._folders(), "nodes": ModuleType("nodes")}
        self._kept = {name: sys.modules[name] for name in modules if name in sys.modules}
        sys.modules.update(modules)
        self._names = list(modules)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            sys.modules.pop(name, None)
        for name in list(sys.modules):
            if any(name == pack or name.startswith(f"{pack}.") for pack in self._packs):
                del sys.modules[name]
        sys.modules.update(self._kept)

    def load(self, folder: Path) -> Pack:
        """Import a pack the way ComfyUI does: from its path, under its path as the name."""
        name = str(folder).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        self._packs.append(name)
        spec.loader.exec_module(module)
        return Pack(module)

    def _api(self) -> dict[str, ModuleType]:
        latest = ModuleType("comfy_api.latest")
        latest.io, latest.ui = _make_io(self.newer), ModuleType("ui")  # type: ignore[attr-defined]
        vars(latest.ui)["PreviewImage"] = PreviewImage
        from_file = VideoFromTrimmableFile if self.newer else VideoFromFile
        classes = {"VideoFromFile": from_file, "VideoFromComponents": VideoFromComponents}
        latest.InputImpl = type("InputImpl", (), classes)  # type: ignore[attr-defined]
        latest.ComfyExtension = type("ComfyExtension", (), {})  # type: ignore[attr-defined]
        return {"comfy_api": ModuleType("comfy_api"), "comfy_api.latest": latest}

    def _comfy(self) -> dict[str, ModuleType]:
        host, cpu = self, torch.device("cpu")
        names = ("comfy", "comfy.model_management", "comfy.model_patcher", "comfy.utils")
        comfy, management, patcher, utils = (ModuleType(name) for name in names)

        class ModelPatcher:
            def __init__(
                self,
                model: Any,
                load_device: Any,
                offload_device: Any,
                size: int = 0,
                weight_inplace_update: bool = False,
            ) -> None:
                self.model, self.load_device, self.offload_device = model, load_device, offload_device

            def detach(self, unpatch_all: bool = True) -> Any:
                return self.model

        class ProgressBar:
            def __init__(self, total: int, node_id: str | None = None) -> None:
                self.total, self.current = total, 0

            def update_absolute(self, value: float, total: int | None = None, preview: Any = None) -> None:
                self.current, self.total = value, self.total if total is None else total
                host.progress.append((self.current, self.total))
                if preview is not None:
                    host.previews.append(preview)

            def update(self, value: int) -> None:
                self.update_absolute(self.current + value)

        def load_models_gpu(
            models: Any,
            memory_required: int = 0,
            force_patch_weights: bool = False,
            minimum_memory_required: int | None = None,
            force_full_load: bool = False,
        ) -> None:
            host.loaded += models

        def throw_exception_if_processing_interrupted() -> None:
            if host.cancel_after is not None:
                if host.cancel_after == 0:
                    raise host.interrupted
                host.cancel_after -= 1

        self.throw = throw_exception_if_processing_interrupted
        devices = ("get_torch_device", "unet_offload_device", "intermediate_device")
        fields = dict.fromkeys(devices, lambda: cpu) | {
            "load_models_gpu": load_models_gpu,
            "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted,
            "InterruptProcessingException": self.interrupted,
        }
        if self.newer:
            fields["intermediate_dtype"] = lambda: torch.float32
        vars(management).update(fields)
        vars(patcher)["ModelPatcher"] = ModelPatcher
        vars(utils)["ProgressBar"] = ProgressBar
        vars(comfy).update(model_management=management, model_patcher=patcher, utils=utils)
        return dict(zip(names, (comfy, management, patcher, utils), strict=True))

    def _folders(self) -> ModuleType:
        known: dict[str, tuple[list[str], set[str]]] = {}

        def add_model_folder_path(name: str, path: str, is_default: bool = False) -> None:
            paths, _ = known.setdefault(name, ([], set()))
            if path not in paths:
                paths.append(path)

        def get_filename_list(name: str) -> list[str]:
            paths, suffixes = known[name]
            found = ((file, path) for path in paths for file in Path(path).rglob("*") if file.is_file())
            wanted = ((file, path) for file, path in found if not suffixes or file.suffix in suffixes)
            return sorted(str(file.relative_to(path)) for file, path in wanted)

        def get_full_path(name: str, file: str) -> str | None:
            return next((str(Path(path, file)) for path in known[name][0] if Path(path, file).is_file()), None)

        def get_save_image_path(prefix: str, output: str, width: int = 0, height: int = 0) -> tuple[Any, ...]:
            folder, name = Path(output, prefix).parent, Path(prefix).name
            if not folder.resolve().is_relative_to(Path(output).resolve()):
                raise Exception("Saving image outside the output folder is not allowed.\n More lines follow.")
            folder.mkdir(parents=True, exist_ok=True)
            taken = (re.match(rf"{re.escape(name)}_(\d+)_", file.name) for file in folder.iterdir())
            counter = max((int(match[1]) for match in taken if match), default=0) + 1
            return str(folder), name, counter, str(Path(prefix).parent), prefix

        def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
            stem, _, mark = name.rpartition(" [")
            base = {"output]": self.output, "input]": self.input}.get(mark) if stem else None
            return str(Path(base, stem) if base else Path(default_dir or self.input, name))

        module = ModuleType("folder_paths")
        vars(module).update(
            get_save_image_path=get_save_image_path,
            get_annotated_filepath=get_annotated_filepath,
            get_input_directory=lambda: str(self.input),
            get_output_directory=lambda: str(self.output),
            get_temp_directory=lambda: str(self.temp),
            folder_names_and_paths=known,
            models_dir=str(self.models),
            add_model_folder_path=add_model_folder_path,
            get_filename_list=get_filename_list,
            get_full_path=get_full_path,
            get_folder_paths=lambda name: list(known[name][0]),
        )
        return module


class PreviewImage:
    """What a node shows of a batch."""

    def __init__(self, image: Any, animated: bool = False, cls: Any = None) -> None:
        self.image = image


class VideoFromFile:
    """A VIDEO of a file or of bytes, as 0.8 has it."""

    def __init__(self, file: str | io.BytesIO) -> None:
        self._file = file

    def get_stream_source(self) -> str | io.BytesIO:
        if isinstance(self._file, io.BytesIO):
            self._file.seek(0)
        return self._file

    def get_dimensions(self) -> tuple[int, int]:
        with av.open(self.get_stream_source()) as container:
            stream = container.streams.video[0]
            return stream.width, stream.height

    def get_duration(self) -> float:
        with av.open(self.get_stream_source()) as container:
            return float(container.duration / av.time_base)

    def save_to(self, path: Any, format: Any = "auto", codec: Any = "auto", metadata: Any = None) -> None:
        raise AssertionError("a file is read as it is")


class VideoFromTrimmableFile(VideoFromFile):
    """As 0.19 has it, which tells nobody of what it was trimmed to."""

    def __init__(self, file: Any, *, start_time: float = 0, duration: float = 0) -> None:
        super().__init__(file)
        self._VideoFromFile__start_time, self._VideoFromFile__duration = start_time, duration


class VideoFromComponents:
    """A VIDEO of frames in memory; it is saved as 0.8 and 0.19 do, which say nothing of its colours."""

    pix_fmt, matrix, tags = "yuv420p", None, (0, 2, 2, 2)

    def __init__(self, components: Any) -> None:
        self._components = components

    def save_to(self, path: Any, format: Any = "auto", codec: Any = "auto", metadata: Any = None) -> None:
        images = self._components.images
        with av.open(path, "w") as output:
            stream: Any = output.add_stream("h264", rate=self._components.frame_rate)
            stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], self.pix_fmt
            self._tag(stream.codec_context)
            for image in images:
                frame = av.VideoFrame.from_ndarray((image * 255).clamp(0, 255).byte().numpy(), format="rgb24")
                frame = frame.reformat(format=self.pix_fmt, dst_colorspace=self.matrix)
                self._tag(frame)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))

    def _tag(self, target: Any) -> None:
        names = ("color_range", "colorspace", "color_primaries", "color_trc")
        for name, value in zip(names, self.tags, strict=True):
            if hasattr(target, name):  # frames of PyAV before 15 have two of them
                setattr(target, name, value)

    def get_components(self) -> Any:
        return self._components

    def get_dimensions(self) -> tuple[int, int]:
        return self._components.images.shape[2], self._components.images.shape[1]

    def get_stream_source(self) -> Any:
        raise AssertionError("frames in memory would be encoded for a stream")


class VideoFromTaggedComponents(VideoFromComponents):
    """As 0.33 has it: BT.709 in limited range, and a depth that Create Video asks for."""

    matrix, tags = 1, (1, 1, 1, 13)

    def __init__(self, components: Any, bit_depth: int = 8) -> None:
        super().__init__(components)
        self._depth = bit_depth
        self.pix_fmt = "yuv420p10le" if bit_depth > 8 else "yuv420p"

    def get_bit_depth(self) -> int:
        return self._depth


class Pack:
    """A loaded pack."""

    def __init__(self, root: ModuleType) -> None:
        self.root = root

    def module(self, name: str) -> Any:
        """Return one of its modules, by the name it has within the pack."""
        return importlib.import_module(f"{self.root.__name__}.{name}")


def execute(node: Any, **inputs: Any) -> tuple[Any, ...]:
    """Run a node as a host does, on a class that cannot be written to, and return its outputs."""

    class Locked(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise AttributeError(f"Cannot modify class attribute {name!r} on locked class")

    known = {item.id for item in node.define_schema().inputs}
    assert set(inputs) <= known, f"{set(inputs) - known} are no inputs of {node.__name__}"
    with torch.inference_mode():
        result = Locked(node.__name__, (node,), {}).execute(**inputs)
    assert len(result.args) == len(node.define_schema().outputs)
    return result.args


def _strict(names: tuple[str, ...]) -> Any:
    """Make an __init__ that takes these keywords only, and whose signature says so."""

    def init(self: Any, *first: Any, **fields: Any) -> None:
        fields |= dict(zip(names, first, strict=False))
        for name in fields:
            if name not in names:
                raise TypeError(f"{type(self).__qualname__} got an unexpected keyword argument {name!r}")
        self.fields = fields
        self.__dict__.update(dict.fromkeys(names) | fields)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, default=None) for name in ("self", *names)]
    init.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return init


def _make_io(newer: bool) -> ModuleType:
    io = ModuleType("comfy_api.latest.io")

    def kind(name: str, io_type: str) -> Any:
        fields = (*_FIELDS[name], "advanced") if newer else _FIELDS[name]
        members = {"__init__": _strict(fields), "io_type": io_type}
        return type(
            name,
            (),
            {
                "io_type": io_type,
                "Input": type(f"{name}.Input", (), members),
                "Output": type(f"{name}.Output", (), {"__init__": _strict(_OUTPUT), "io_type": io_type}),
            },
        )

    for name, io_type in {**_TYPES, "Combo": "COMBO"}.items():
        setattr(io, name, kind(name, io_type))
    schema_fields = _SCHEMA + (_NEWER_SCHEMA if newer else ())

    class NodeOutput:
        def __init__(self, *args: Any, ui: Any = None, expand: Any = None, block_execution: str | None = None) -> None:
            self.args, self.ui = args, ui

    class Option:
        def __init__(self, key: str, inputs: list[Any]) -> None:
            self.key, self.inputs = key, inputs

    dynamic = type("DynamicCombo.Input", (), {"__init__": _strict(_DYNAMIC), "io_type": "COMFY_DYNAMICCOMBO_V3"})
    vars(io).update(
        DynamicCombo=type("DynamicCombo", (), {"Option": Option, "Input": dynamic}),
        Custom=lambda io_type: kind("Custom", io_type),
        Schema=dataclasses.make_dataclass("Schema", [(name, Any, None) for name in schema_fields]),
        ComfyNode=type("ComfyNode", (), {}),
        NodeOutput=NodeOutput,
    )
    return io
