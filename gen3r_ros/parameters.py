"""The node's parameters: each declared once, with description, unit, range, default, run-time or not.

Run-time ones take effect at once; once the node is configured the others are refused, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.keyframes import KeyframeOptions
from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.requests import CloudOptions
from gen3r_ros.declared import Declared, declare_parameter

MOST_VIEWS = 1001
"""Of one prediction."""

RANDOM = "random:"
"""Prefix of checkpoints that are no checkpoints: ``random:tiny`` is a model of random weights, for tests."""


PARAMETERS = {
    "autostart": Declared(False, "configure and activate by itself, once, when the node starts"),
    "bond": Declared(False, "form a bond when activated, for a lifecycle manager that wants one (Nav2's, with a "
                     "bond_timeout over 0); needs bondpy"),
    # the model and its process
    "checkpoint": Declared("", "folder of the model; empty: gen3r-small; random:tiny: random weights, for tests only"),
    "prompts": Declared("", "file of `gen3r embed-prompts`, with which no text encoder is loaded; empty: none"),
    "device": Declared("auto", "auto, cpu, cuda, cuda:1, ..."),
    "dtype": Declared("auto", "of the weights", values=("auto", "fp32", "bf16", "fp16")),
    "memory_budget_gib": Declared(0.0, "GiB of the device that may be used (`gen3r plan` tells what they suffice "
                                  "for); 0: as much as a job needs", 0.0, 4096.0),
    "compile": Declared(False, "compile the networks for predicted views, for which a GPU then takes less time; "
                        "loading takes a minute or two longer, as does the first prediction of another size"),
    "threads": Declared(0, "processor cores for inference; 0: all but one", 0, 1024),
    "niceness": Declared(10, "of the inference process, so that callbacks come first", 0, 19),
    "activation_timeout_s": Declared(120.0, "seconds that activation waits for the model", 0.1, 86400.0, runtime=True),
    # frames and images
    "image_transport": Declared("raw", "image_raw, or image_raw/compressed", values=("raw", "compressed")),
    "rectified": Declared(False, "the images have no distortion: camera_info's P counts, not K and D"),
    "depth_transport": Declared("none", "of depth images on depth/image_raw, which tell the scale; none: there are "
                                "none", values=("none", "raw", "compressed", "compressedDepth")),
    "camera_frame": Declared("", "optical frame of the camera, where its images name none, or a wrong one"),
    "cameras": Declared("", "names of several cameras, with commas between: front,left. Each has topics of its own, as "
                        "front/image_raw, and parameters, as front.image; empty: one camera"),
    "depth_tolerance_s": Declared(0.02, "seconds between an image and its depth, at most", 0.0, 1.0, runtime=True),
    "future_tolerance_s": Declared(1.0, "seconds that stamps may be ahead of this node's clock; later ones are dropped",
                                   0.0, 3600.0, runtime=True),
    "fixed_frame": Declared("odom", "frame of all results: odom, or map"),
    "base_frame": Declared("base_link", "the robot's frame that goal paths are of"),
    "frame_prefix": Declared("", "of the TF frames keyframe_N and view_N; empty: node's full name, as robot1/gen3r"),
    "input_wait_s": Declared(0.5, "seconds that an image waits for camera_info, depth, TF", 0.0, 10.0, runtime=True),
    "tf_history_s": Declared(10.0, "seconds of TF that are kept", 0.5, 3600.0),
    # keyframes
    "keyframe_translation_m": Declared(0.25, "metres to the next keyframe", 0.001, 100.0, runtime=True),
    "keyframe_rotation_deg": Declared(12.0, "degrees to the next keyframe", 0.1, 180.0, runtime=True),
    "keyframe_change": Declared(0.2, "change of the image, where TF says nothing, 0 to 1", 0.001, 1.0, runtime=True),
    "keyframe_min_interval_s": Declared(0.2, "seconds before which there is no other keyframe", 0.0, 60.0,
                                        runtime=True),
    "keyframe_max_interval_s": Declared(5.0, "seconds after which there is one in any case", 0.1, 3600.0,
                                        runtime=True),
    "keyframe_capacity": Declared(32, "keyframes that are kept", 1, 1000, runtime=True),
    # reconstruction
    "continuous": Declared(True, "reconstruct as keyframes come; otherwise on demand", runtime=True),
    "window": Declared(8, "keyframes in a reconstruction, at most", 1, 200, runtime=True),
    "min_window": Declared(2, "keyframes in a reconstruction, at least", 1, 200, runtime=True),
    "longest": Declared(0, "pixels of the longer side for reconstruction; 0: as the model's own", 0, 4096,
                        runtime=True),
    "metres_per_unit": Declared(0.0, "metres in one unit of the model, where known; 0: from depth or TF", 0.0, 1e4,
                                runtime=True),
    "anchor": Declared(True, "fit depth to the camera poses that TF tells, where all keyframes have one; TF has to be "
                             "good to about a centimetre from one to the next", runtime=True),
    "max_points": Declared(200_000, "points of a cloud, at most", 1, 1_500_000, runtime=True),
    "drop_percent": Declared(30.0, "percent of pixels that are left out, the least certain", 0.0, 100.0, runtime=True),
    # the map
    "map_voxel_m": Declared(0.03, "metres, edge of a voxel of the map", 0.001, 10.0),
    "map_max_points": Declared(500_000, "points of the map, at most", 1, 1_500_000),
    "map_period_s": Declared(2.0, "seconds between maps, at least", 0.0, 3600.0, runtime=True),
    "map_folder": Declared("~/.ros/gen3r", "where SaveMap writes relative paths", runtime=True),
    # prediction
    "prompt": Declared("", "what the place is, for paths on goal_path", runtime=True),
    "negative_prompt": Declared("bad detailed", "what predicted views keep away from", runtime=True),
    "num_frames": Declared(0, "views along a path, 4k+1; 0: as the model's own", 0, MOST_VIEWS, runtime=True),
    "image_width": Declared(0, "pixels of predicted views, a multiple of 112; 0: as the model's own", 0, 4096,
                            runtime=True),
    "image_height": Declared(0, "the same", 0, 4096, runtime=True),
    "steps": Declared(0, "denoising steps; 0: as suits the checkpoint", 0, 1000, runtime=True),
    "guidance": Declared(-1.0, "weight of the prompt; negative: as suits the checkpoint", -1.0, 100.0, runtime=True),
    "geometry": Declared("auto", "what tells the depth of predicted views: the model's latents, or VGGT on the views; "
                         "auto: as suits the checkpoint", values=("auto", "latents", "frames"), runtime=True),
    "scheduler": Declared("euler", "solver", values=("euler", "unipc", "dpm++"), runtime=True),
    "seed": Declared(42, "of the random draws", 0, 2**62, runtime=True),
    "deadline_s": Declared(0.0, "seconds within which paths on goal_path are of use; 0: any", 0.0, 86400.0,
                           runtime=True),
    "fastest_profile": Declared("preview", "how far goals that have a deadline may be hurried; exact: not at all, then "
                                "those that would be late are refused", values=("exact", "balanced", "fast", "preview"),
                                runtime=True),
    "heading": Declared("auto", "where cameras look along a path: as its poses, along it, or by what they say",
                        values=("auto", "given", "path"), runtime=True),
    "horizon_m": Declared(0.0, "metres of a path that are predicted, at most; 0: all", 0.0, 1e4, runtime=True),
    "replace_running": Declared(False, "a new goal also stops one that is being computed", runtime=True),
    "diagnostics_period_s": Declared(1.0, "seconds between diagnostics", 0.05, 60.0),
}  # fmt: skip
"""By name."""

CAMERA_PARAMETERS = {
    "image": Declared("", "topic of the images, without the transport; empty: NAME/image_raw"),
    "camera_info": Declared("", "topic; empty: camera_info beside the images"),
    "depth": Declared("", "topic of the depth images, without the transport; empty: depth/image_raw beside the images"),
    "image_transport": Declared("", "empty: as image_transport", values=("", "raw", "compressed")),
    "depth_transport": Declared("", "empty: as depth_transport",
                                values=("", "none", "raw", "compressed", "compressedDepth")),
    "rectified": Declared(False, "as rectified, which counts for all cameras"),
    "frame": Declared("", "optical frame of the camera, where its images name none, or a wrong one"),
}  # fmt: skip
"""Of each of several cameras, as NAME.image."""


@dataclass(frozen=True)
class NodeParameters:
    """Their values; attributes are called as in :data:`PARAMETERS`."""

    autostart: bool
    bond: bool
    checkpoint: str
    prompts: str
    device: str
    dtype: str
    memory_budget_gib: float
    compile: bool
    threads: int
    niceness: int
    activation_timeout_s: float
    image_transport: str
    rectified: bool
    depth_transport: str
    camera_frame: str
    cameras: str
    depth_tolerance_s: float
    future_tolerance_s: float
    fixed_frame: str
    base_frame: str
    frame_prefix: str
    input_wait_s: float
    tf_history_s: float
    keyframe_translation_m: float
    keyframe_rotation_deg: float
    keyframe_change: float
    keyframe_min_interval_s: float
    keyframe_max_interval_s: float
    keyframe_capacity: int
    continuous: bool
    window: int
    min_window: int
    longest: int
    metres_per_unit: float
    anchor: bool
    max_points: int
    drop_percent: float
    map_voxel_m: float
    map_max_points: int
    map_period_s: float
    map_folder: str
    prompt: str
    negative_prompt: str
    num_frames: int
    image_width: int
    image_height: int
    steps: int
    guidance: float
    geometry: str
    scheduler: str
    seed: int
    deadline_s: float
    fastest_profile: str
    heading: Any  # one of goal_path.Heading
    horizon_m: float
    replace_running: bool
    diagnostics_period_s: float

    def __post_init__(self) -> None:
        if self.min_window > self.window:
            raise InputError(f"min_window {self.min_window} is over window {self.window}; lower it")
        if (self.image_width > 0) != (self.image_height > 0):
            raise InputError(
                f"image_width {self.image_width} and image_height {self.image_height} are set together, or both 0"
            )
        _ = self.keyframes, self.cloud, self.worker, self.camera_names  # have rules of their own

    @property
    def random_size(self) -> str | None:
        """Size of a model with random weights; None where there is a checkpoint."""
        return self.checkpoint.removeprefix(RANDOM) if self.checkpoint.startswith(RANDOM) else None

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Of several cameras; empty where there is one, which has no name."""
        names = tuple(name.strip().rstrip("/") for name in self.cameras.split(",") if name.strip())
        for name in names:
            try:
                validate_topic_name(f"{name}/image_raw")
            except InvalidTopicNameException as error:
                raise InputError(f"cameras is {self.cameras!r}: {name!r} is no name that topics can begin with; names "
                                 f"are of letters, digits and underscores") from error  # fmt: skip
        if len({name.strip("/").replace("/", ".") for name in names}) < len(names):
            raise InputError(f"cameras is {self.cameras!r}: each has a name of its own")
        return names

    @property
    def worker(self) -> WorkerOptions:
        """Of the inference process."""
        return WorkerOptions(
            checkpoint=None if self.random_size is not None else self.checkpoint or None,
            random_size=self.random_size,
            prompts=self.prompts or None,
            memory_budget=self.memory_budget_gib or None,
            compiled=self.compile,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads or None,
            niceness=self.niceness,
        )

    @property
    def keyframes(self) -> KeyframeOptions:
        """When an image becomes one."""
        return KeyframeOptions(
            translation_m=self.keyframe_translation_m,
            rotation_deg=self.keyframe_rotation_deg,
            change=self.keyframe_change,
            min_interval_s=self.keyframe_min_interval_s,
            max_interval_s=self.keyframe_max_interval_s,
            capacity=max(self.keyframe_capacity, self.window),
            recent=self.window,
        )

    @property
    def cloud(self) -> CloudOptions:
        """Which pixels become points."""
        return CloudOptions(max_points=self.max_points, drop_percent=self.drop_percent)

    @property
    def size(self) -> tuple[int, int] | None:
        """``(height, width)`` of predicted views, pixels; None for the model's own."""
        return (self.image_height, self.image_width) if self.image_width else None


def declare(node: Node) -> NodeParameters:
    """Declare all parameters on a node and read what was given.

    Raises:
        InputError: a value has the wrong type or is out of its range; names the parameter.
    """
    for name, one in PARAMETERS.items():
        declare_parameter(node, name, one, note=_when(one))
    values = read(node)
    declare_cameras(node, values)
    return values


def declare_cameras(node: Node, values: NodeParameters) -> None:
    """Declare the parameters of all cameras with names, where that was not done.

    Raises:
        InputError: as :func:`declare`.
    """
    for camera in values.camera_names:
        for name, one in CAMERA_PARAMETERS.items():
            whole = camera_parameter(camera, name)
            if not node.has_parameter(whole):
                declare_parameter(node, whole, one, note=_when(one))
            value = node.get_parameter(whole).value
            if one.values and value not in one.values:
                raise InputError(f"the parameter {whole} cannot be {value!r}; it is one of {', '.join(one.values)}")


def camera_parameter(camera: str, name: str) -> str:
    """What a parameter of a camera is called."""
    return f"{camera.strip('/').replace('/', '.')}.{name}"


def _when(one: Declared) -> str:
    return "" if one.runtime else "; before configure"


def read(node: Node, changed: list[Parameter[Any]] | None = None) -> NodeParameters:
    """The present values.

    Args:
        node: that they are declared on.
        changed: values that are about to be set.

    Raises:
        InputError: values do not go together, or are none of those allowed.
    """
    values: dict[str, Any] = {own.name: node.get_parameter(own.name).value for own in fields(NodeParameters)}
    values.update({one.name: one.value for one in changed or () if one.name in values})
    for name, value in values.items():
        allowed = PARAMETERS[name].values
        if allowed and value not in allowed:
            raise InputError(f"the parameter {name} cannot be {value!r}; it is one of {', '.join(allowed)}")
    return NodeParameters(**values)


def check_change(node: Node, changed: list[Parameter[Any]], *, configured: bool) -> str:
    """Why values cannot be set now; empty where they can.

    Args:
        node: that they are declared on.
        changed: what is to be set.
        configured: whether the node is; then only run-time parameters change.
    """
    for one in changed:
        known = PARAMETERS.get(one.name) or _of_camera(node, one.name)
        if known is None:
            continue
        if known.values and one.value not in known.values:
            return f"the parameter {one.name} cannot be {one.value!r}; it is one of {', '.join(known.values)}"
        if configured and not known.runtime and one.value != node.get_parameter(one.name).value:
            return (
                f"{one.name} is read when the node is configured: clean it up, set {one.name}, and configure it again"
            )
    try:
        read(node, changed)
    except InputError as error:
        return str(error)
    return ""


def _of_camera(node: Node, name: str) -> Declared | None:
    """The declaration of a parameter of a camera with a name."""
    camera, _, own = name.rpartition(".")
    return CAMERA_PARAMETERS.get(own) if camera and node.has_parameter(name) else None
