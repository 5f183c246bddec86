"""Which cameras there are: their topics, transports and frames, from the parameters."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from gen3r_core.errors import InputError
from gen3r_ros.parameters import NodeParameters, camera_parameter


def transport_topic(node: Node, base: str, transport: str) -> str:
    """The topic of a transport: below where its base topic is remapped to, or where it is remapped to itself.

    Args:
        node: that subscribes.
        base: topic without the transport.
        transport: "raw", "compressed", ...

    Returns:
        the name to subscribe to.
    """
    if transport == "raw":
        return base
    own, target = f"{base}/{transport}", node.resolve_topic_name(base)
    remapped = node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True)
    if remapped or target == node.resolve_topic_name(base, only_expand=True):
        return own
    return f"{target}/{transport}"


@dataclass(frozen=True)
class CameraSettings:
    """Of one camera.

    Attributes:
        name: empty where there is only one.
        image: topic of the images, without the transport.
        camera_info: topic.
        depth: topic of the depth images, without the transport.
        image_transport: "raw" or "compressed".
        depth_transport: "none", "raw", "compressed" or "compressedDepth".
        rectified: images have no distortion, and the intrinsics of camera_info's P.
        frame: optical frame; empty: as the images say.
    """

    name: str = ""
    image: str = "image_raw"
    camera_info: str = "camera_info"
    depth: str = "depth/image_raw"
    image_transport: str = "raw"
    depth_transport: str = "none"
    rectified: bool = False
    frame: str = ""

    def image_topic(self, node: Node) -> str:
        """That a node subscribes to."""
        return transport_topic(node, self.image, self.image_transport)

    def depth_topic(self, node: Node) -> str:
        """The same; empty where there is no depth."""
        return "" if self.depth_transport == "none" else transport_topic(node, self.depth, self.depth_transport)


def one_camera(parameters: NodeParameters) -> CameraSettings:
    """That without a name."""
    return CameraSettings(
        image_transport=parameters.image_transport,
        depth_transport=parameters.depth_transport,
        rectified=parameters.rectified,
        frame=parameters.camera_frame,
    )


def all_cameras(node: Node, parameters: NodeParameters) -> tuple[CameraSettings, ...]:
    """Every camera, in the order of the parameter.

    Args:
        node: whose parameters of cameras are declared.
        parameters: of the node.

    Raises:
        InputError: two cameras have one topic.
    """
    if not parameters.camera_names:
        return (one_camera(parameters),)
    found = tuple(_with_name(node, parameters, name) for name in parameters.camera_names)
    topics = [one.image_topic(node) for one in found]
    if len(set(topics)) < len(topics):
        raise InputError(f"two of the cameras {', '.join(one.name for one in found)} have one topic: "
                         f"{', '.join(topics)}; set NAME.image")  # fmt: skip
    return found


def _with_name(node: Node, parameters: NodeParameters, name: str) -> CameraSettings:
    own = one_camera(parameters)

    def value(of: str) -> str:
        return str(node.get_parameter(camera_parameter(name, of)).value)

    image = value("image") or f"{name}/image_raw"
    above, slash, _ = image.rpartition("/")
    return CameraSettings(
        name=name,
        image=image,
        camera_info=value("camera_info") or f"{above}{slash}camera_info",
        depth=value("depth") or f"{above}{slash}depth/image_raw",
        image_transport=value("image_transport") or own.image_transport,
        depth_transport=value("depth_transport") or own.depth_transport,
        rectified=own.rectified or value("rectified") == "True",
        frame=value("frame"),
    )
