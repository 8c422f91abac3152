"""Puts tiles together into blocks and images, cropped or blended."""

from patchloom.stitching.blend import add_blended_tile
from patchloom.stitching.crop import paste_tile
from patchloom.stitching.crop_stitcher import CropStitcher, stitch_tiles
from patchloom.stitching.seam_quality import seam_jump_ratio

__all__ = ["CropStitcher", "add_blended_tile", "paste_tile", "seam_jump_ratio", "stitch_tiles"]
