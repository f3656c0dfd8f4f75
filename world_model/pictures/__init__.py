"""Pictures of occupancy: bird's eye, lit voxels in 3D, strips, films. Headless, with numpy and pillow alone."""

from world_model.pictures.bev import birds_eye, class_map
from world_model.pictures.camera import Camera
from world_model.pictures.difference import difference_map, difference_picture
from world_model.pictures.strip import beside, caption, legend, strip
from world_model.pictures.vectors import Vectors, box_vectors, ego_vector
from world_model.pictures.video import write_film, write_gif, write_mp4, write_png
from world_model.pictures.voxels import voxels_3d

__all__ = [
    "Camera",
    "Vectors",
    "beside",
    "birds_eye",
    "box_vectors",
    "caption",
    "class_map",
    "difference_map",
    "difference_picture",
    "ego_vector",
    "legend",
    "strip",
    "voxels_3d",
    "write_film",
    "write_gif",
    "write_mp4",
    "write_png",
]
