"""Puts tiles together into blocks and images, cropped or blended."""

from patchloom.stitching.blend import add_blended_tile
from patchloom.stitching.crop import paste_tile
from patchloom.stitching.crop_stitcher import CropStitcher, stitch_tiles
from patchloom.stitching.seam_quality import SeamVisibility, seam_visibility

__all__ = ["CropStitcher", "SeamVisibility", "add_blended_tile", "paste_tile", "seam_visibility", "stitch_tiles"]
