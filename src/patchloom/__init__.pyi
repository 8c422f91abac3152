# The public names, one line each: the only list of them.
from patchloom.axes import AxesMap as AxesMap
from patchloom.errors import AxesError as AxesError
from patchloom.errors import GeometryError as GeometryError
from patchloom.errors import MissingExtraError as MissingExtraError
from patchloom.errors import ModelError as ModelError
from patchloom.errors import ModelNotFoundError as ModelNotFoundError
from patchloom.errors import ModelOutputError as ModelOutputError
from patchloom.errors import NotWholeError as NotWholeError
from patchloom.errors import OutputExistsError as OutputExistsError
from patchloom.errors import PatchIndexError as PatchIndexError
from patchloom.errors import PatchloomError as PatchloomError
from patchloom.errors import SinkError as SinkError
from patchloom.errors import SourceError as SourceError
from patchloom.errors import SourceNotFoundError as SourceNotFoundError
from patchloom.errors import SpecError as SpecError
from patchloom.errors import StitchError as StitchError
from patchloom.image_metadata import ImageMetadata as ImageMetadata
from patchloom.image_stacks.array_stack import ArrayStack as ArrayStack
from patchloom.image_stacks.image_stack import ImageStack as ImageStack
from patchloom.patch_specs import PatchSpecs as PatchSpecs
from patchloom.patch_specs import TileSpecs as TileSpecs
from patchloom.patch_specs import UncorrelatedPatchSpecs as UncorrelatedPatchSpecs
from patchloom.patch_specs import is_tile_specs as is_tile_specs
from patchloom.patch_specs import is_uncorrelated_specs as is_uncorrelated_specs
from patchloom.patching.tiled_patching import TiledPatching as TiledPatching
from patchloom.patching.whole_sample_patching import WholeSamplePatching as WholeSamplePatching
from patchloom.prediction.models.czann_model import CzannModel as CzannModel
from patchloom.prediction.models.load_model import load_model as load_model
from patchloom.prediction.models.model import ModelDescription as ModelDescription
from patchloom.prediction.models.onnx_model import OnnxModel as OnnxModel
from patchloom.spec_table import SpecTable as SpecTable
from patchloom.spec_validation import validate_specs as validate_specs

__version__: str
