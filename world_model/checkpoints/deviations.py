"""What ``faithful=True`` keeps of the published model although it is a mistake, in one list.

The released weights were trained with these mistakes, so they need them; everything new is trained with
``faithful=False``, which is right. The switch is a field of `TokenizerConfig` and of `ForecasterConfig`, travels inside
the checkpoint, and is set by `python -m world_model.import_checkpoint`. Code that keeps a deviation names its number.
Source: I2-World (ICCV 2025, arXiv 2507.09144) and its released implementation's behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """One deviation of the published model from what would be right.

    Attributes:
        number: how the code refers to it.
        published: what the published model does, and ``faithful=True`` with it.
        right: what ``faithful=False`` does.
        where: the places in `world_model` that make the difference.
        training_only: it changes how weights come about, not what given weights compute.
    """

    number: int
    published: str
    right: str
    where: tuple[str, ...]
    training_only: bool = False


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        1,
        "'No motion yet' is the quaternion (1, 1, 1, 1) in the motion memory.",
        "The identity (1, 0, 0, 0).",
        ("models.forecaster.ego:unobserved", "models.forecaster.motion:standing"),
    ),
    Deviation(
        2,
        "Motion features are (vx, vy, yaw rate) for observed frames, (yaw rate, vx, vy) for predicted ones.",
        "(vx, vy, yaw rate) throughout.",
        ("models.forecaster.ego:EgoState.follow", "models.forecaster.motion:slot_of"),
    ),
    Deviation(
        3,
        "Yaw is read from a (w, x, y, z) quaternion as if it were (x, y, z, w), which gives 0 for every planar "
        "heading; the yaw rate is the unwrapped difference; speed is turned by a quarter.",
        "The true heading, its rate wrapped to a half turn, velocity along the ego axes.",
        ("models.forecaster.ego:misread_yaw", "models.forecaster.motion:slot_of"),
    ),
    Deviation(
        4,
        "The position and yaw that predicted velocities are measured from survive from one sample to the next; where "
        "a sequence starts they are those of the current pose before every step.",
        "Velocities are measured over the step itself.",
        ("models.forecaster.ego:EgoState.follow",),
    ),
    Deviation(
        5,
        "Predicted speed is one number for a whole batch, out of the displacements of its first two entries. "
        "faithful=True keeps what that gives at the published batch of one: the 3D distance of every sample by "
        "itself. The form that couples a batch is for tests alone (couple_batch).",
        "Every sample has its own speed.",
        ("models.forecaster.ego:EgoState.follow",),
    ),
    Deviation(
        6,
        "Step k >= 1 of a rollout obeys the command of step k-1 (the first command twice); the slot of motion k -> "
        "k+1 carries the observed features of frame k, measured over k-1 -> k.",
        "Step k obeys the command of step k; a slot's features are those of its own motion.",
        (
            "models.forecaster.ego:EgoState.obey",
            "models.forecaster.ego:EgoState.observe",
            "models.forecaster.objective:published_rollout",
        ),
    ),
    Deviation(
        7,
        "The predicted next rotation is relative ⊗ current, although the target is conj(previous) ⊗ current.",
        "current ⊗ relative.",
        ("models.forecaster.ego:EgoState.follow", "models.forecaster.motion:step_pose"),
    ),
    Deviation(
        8,
        "The temporal alignment takes a latent pixel for its cell's lower corner, at the grid's lower edge; cell size"
        " and corner are float32 constants.",
        "The cell's centre, at the grid's middle height.",
        ("models.tokenizer.memory:align",),
    ),
    Deviation(
        9,
        "The augmentation of the stored memory is remembered from the start of its sequence only. (The published "
        "training also draws flips per frame; here it is once per stream, unless with --flips published.)",
        "The augmentation of the newest remembered frame.",
        ("models.tokenizer.memory:remember",),
    ),
    Deviation(
        10,
        "The warped memory is encoder output that never went through quant_conv, and its stages have no codebook loss.",
        "The same: it is how the tokenizer is built, and its codes are good.",
        ("models.tokenizer.quantizer:Quantizer.forward",),
    ),
    Deviation(
        11,
        "The token history at the start of a rollout is copies of the current token; earlier frames reach the model "
        "through the tokenizer's temporal stages and the observed motions alone.",
        "The observed tokens.",
        ("models.forecaster.forecaster:Forecaster.start",),
    ),
    Deviation(
        12,
        "Displacements are differences along the global x and y axes, z is carried over, and heading is never given "
        "to the network.",
        "Displacements along the ego axes at the step's start.",
        ("models.forecaster.ego:EgoState", "models.forecaster.motion:slot_of"),
    ),
    Deviation(
        13,
        "Published scores condition every step on recorded future poses, drop classes with IoU 0 from the mean, count"
        " a ground truth of 255 as occupied in the binary IoU, and round to two decimals before averaging horizons.",
        "Every regime and convention is reported under its own name.",
        ("evaluation.metrics:Confusion", "evaluation.result:ForecastResult.mean"),
    ),
    Deviation(
        14,
        "The trajectory loss is divided by the batch twice in effect; the rotation loss knows neither validity nor "
        "step weights.",
        "A mean over the batch; both losses leave invalid steps out and weigh the steps.",
        ("models.forecaster.losses:trajectory_loss", "models.forecaster.losses:rotation_loss"),
        training_only=True,
    ),
    Deviation(
        15,
        "All parameters of the transformer with more than one dimension start Xavier-uniform, the deformable offsets "
        "too.",
        "Each layer's own initialisation; the offsets start fanned out.",
        ("models.forecaster.transformer:Transformer",),
        training_only=True,
    ),
    Deviation(
        16,
        "On Waymo the transform to the previous frame is E_curr · inv(E_prev), all commands are 'right' and the "
        "motion features are zero.",
        "inv(E_prev) · E_curr as everywhere, commands and features from the poses.",
        ("data.index:SceneIndex.curr_to_prev", "data.formats.waymo:read_waymo"),
    ),
)
"""The only list of deviations; the numbers are those that comments elsewhere give."""
