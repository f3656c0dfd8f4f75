"""Pictures of occupancy: bird's eye, lit voxels in 3D, strips, films. Headless, numpy and pillow only."""

from world_model.pictures.bev import birds_eye, class_map
from world_model.pictures.camera import Camera
from world_model.pictures.strip import beside, caption, legend, strip
from world_model.pictures.video import write_gif, write_png
from world_model.pictures.voxels import voxels_3d

__all__ = [
    "Camera",
    "beside",
    "birds_eye",
    "caption",
    "class_map",
    "legend",
    "strip",
    "voxels_3d",
    "write_gif",
    "write_png",
]
