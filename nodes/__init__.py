"""ComfyUI nodes: schemas over `bfr_core`, with no maths, no loops over pixels and no file formats."""

from __future__ import annotations

from ..bfr_core.registry import methods
from .compare import CompareFaces
from .compat import ComfyExtension, io
from .composite import CompositeFaces
from .degrade import DegradeFaces
from .detect import AlignFaces, DetectFaces
from .errors import in_words
from .example import ExampleClip, ExamplePortrait
from .guidance import CombineGuidanceMasks, FacePartMask, GuidanceMask, IdentityGuideNode, PreviewGuidanceMask
from .host import register_folders
from .loaders import LoadDetector
from .own import own_nodes
from .people import IdentityDriftGate, SelectPerson
from .picture import picture_node
from .restore import LoadRestorer, RestoreFaces, method_node
from .tracks import SelectTracks
from .video import RestoreFacesInFrames, RestoreFacesInVideo


class BfrExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class; the oldest host we support calls nothing before this."""
        register_folders()
        fixed = [LoadDetector, DetectFaces, AlignFaces, LoadRestorer, CompositeFaces, RestoreFaces]
        fixed += [CompareFaces, DegradeFaces]
        fixed += [GuidanceMask, FacePartMask, CombineGuidanceMasks, PreviewGuidanceMask]
        fixed += [IdentityGuideNode, SelectPerson, IdentityDriftGate]
        fixed += [RestoreFacesInVideo, SelectTracks, RestoreFacesInFrames]
        fixed += [ExamplePortrait, ExampleClip]
        own: list[type[io.ComfyNode]] = []
        for method in methods().values():
            own += [method_node(method), *([picture_node(method)] if method.picture else []), *own_nodes(method)]
        return [in_words(node) for node in fixed + own]
