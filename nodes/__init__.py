"""ComfyUI nodes: schemas over `bfr_core`, with no maths, no loops over pixels and no file formats."""

from __future__ import annotations

from ..bfr_core.registry import methods
from .compare import CompareFaces
from .compat import ComfyExtension, io
from .composite import CompositeFaces
from .degrade import DegradeFaces
from .detect import AlignFaces, DetectFaces
from .guidance import CombineGuidanceMasks, FacePartMask, GuidanceMask, IdentityGuideNode, PreviewGuidanceMask
from .host import register_folders
from .loaders import LoadDetector
from .people import IdentityDriftGate, SelectPerson
from .picture import RestoreImage
from .pltrans import LoadPLTransLatent, PLTransDecode, PLTransLatent, PLTransMix, PLTransSample, SavePLTransLatent
from .restore import LoadRestorer, RestoreFaces, method_node
from .style import LoadStyleCodes, MakeStyleCodes, MixStyleCodes, PreviewStyleCodes, SaveStyleCodes
from .tracks import SelectTracks
from .video import RestoreFacesInFrames, RestoreFacesInVideo


class BfrExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class; the oldest host we support calls nothing before this."""
        register_folders()
        fixed = [LoadDetector, DetectFaces, AlignFaces, LoadRestorer, CompositeFaces, RestoreFaces]
        fixed += [CompareFaces, DegradeFaces]
        fixed += [MakeStyleCodes, PreviewStyleCodes, MixStyleCodes, SaveStyleCodes, LoadStyleCodes]
        fixed += [PLTransLatent, PLTransSample, PLTransMix, PLTransDecode, SavePLTransLatent, LoadPLTransLatent]
        fixed += [GuidanceMask, FacePartMask, CombineGuidanceMasks, PreviewGuidanceMask]
        fixed += [IdentityGuideNode, RestoreImage, SelectPerson, IdentityDriftGate]
        fixed += [RestoreFacesInVideo, SelectTracks, RestoreFacesInFrames]
        return fixed + [method_node(method) for method in methods().values()]
