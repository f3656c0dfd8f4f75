"""nuScenes annotation categories -> Occ3D classes, as the 16-class nuScenes-lidarseg challenge groups them.

Occ3D labels were made with this grouping, so a box and the voxels inside it agree: among people only those on foot are
pedestrians (strollers, wheelchairs and scooters are ``others``), and emergency vehicles are ``others`` too.
"""

from __future__ import annotations

from world_model.core.errors import DataError
from world_model.core.grid import CLASS_ID

_CLASS_OF_CATEGORY: dict[str, str] = {
    "animal": "others",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.personal_mobility": "others",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.stroller": "others",
    "human.pedestrian.wheelchair": "others",
    "movable_object.barrier": "barrier",
    "movable_object.debris": "others",
    "movable_object.pushable_pullable": "others",
    "movable_object.trafficcone": "traffic_cone",
    "static_object.bicycle_rack": "others",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.emergency.ambulance": "others",
    "vehicle.emergency.police": "others",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}

DETECTION_CLASSES = frozenset(
    (
        *("barrier", "bicycle", "bus", "car", "construction_vehicle"),
        *("motorcycle", "pedestrian", "traffic_cone", "trailer", "truck"),
    )
)
"""The classes of the nuScenes detection benchmark; they are named as in Occ3D."""


def class_of_category(category: str) -> int:
    """Occ3D class id of a nuScenes category name.

    Raises:
        DataError: the category is not one of nuScenes' 23 annotation categories.
    """
    if category not in _CLASS_OF_CATEGORY:
        raise DataError(
            f"annotations of the category {category!r}",
            f"one of: {', '.join(sorted(_CLASS_OF_CATEGORY))}",
            "rename the category in category.json to the nearest of these",
        )
    return CLASS_ID[_CLASS_OF_CATEGORY[category]]


def class_of_name(name: str) -> int:
    """Occ3D class id of a name in an info file: one of the ten detection classes, or else a nuScenes category.

    Raises:
        DataError: it is neither.
    """
    return CLASS_ID[name] if name in DETECTION_CLASSES else class_of_category(name)
