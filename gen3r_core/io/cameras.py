"""Camera files: Gen3R's ``cameras.json`` and nerfstudio's ``transforms.json``.

``cameras.json`` holds ``extrinsics`` ``[F, 4, 4]`` (world to camera, OpenCV axes) and
``intrinsics`` ``[F, 3, 3]`` in pixels of a 560x560 image. ``transforms.json`` holds
``frames``, each with a ``transform_matrix`` (camera to world), and pinhole numbers (``fl_x``,
``fl_y``, ``cx``, ``cy``, ``w``, ``h``) in each frame or once for all; its axes are OpenGL's (x right, y
up, z backward) as nerfstudio documents, or OpenCV's as in Gen3R's published training data; where it says
which (``camera_axes``), that counts.

Readers return float64 paths, all that the file says, and raise
:class:`~gen3r_core.errors.InputError` naming file and frame for whatever they cannot use.
Writers exist twice: ``format_...`` returns the text, ``write_...`` writes it whole or not at all.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3r_core.errors import InputError, OutputError
from gen3r_core.geometry.rigid import homogeneous
from gen3r_core.io.atomic import write_text_atomic
from gen3r_core.scene import CameraPath

Axes = Literal["opengl", "opencv"]

GEN3R_IMAGE_SIZE = (560, 560)
"""``(height, width)`` that the intrinsics of a ``cameras.json`` refer to."""

_LOG = logging.getLogger(__name__)
_FLIP_Y_AND_Z = np.diag([1.0, -1.0, -1.0, 1.0])
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_LARGEST_FILE = 256 * 2**20


def read_cameras(path: Path, *, axes: Axes = "opengl", metres_per_unit: float | None = None) -> CameraPath:
    """Reads either kind of camera file; which one, its content tells.

    Args:
        path: JSON file with ``extrinsics`` and ``intrinsics``, or with ``frames``.
        axes: of a ``transforms.json`` that does not say so itself (key ``camera_axes``, which our maps have); a
            ``cameras.json`` always has OpenCV axes.
        metres_per_unit: passed on to the path, if its translations are in metres.

    Returns:
        The camera path, float64 on the CPU.

    Raises:
        InputError: naming the file, and the frame where one is at fault.
    """
    content = _read_object(path)
    if "frames" in content:
        return _path_of(path, *_parse_transforms(path, content, axes, False)[:3], metres_per_unit)
    if "extrinsics" in content or "intrinsics" in content:
        return _path_of(path, *_parse_gen3r(path, content), GEN3R_IMAGE_SIZE, metres_per_unit)
    raise InputError(
        f"{path}: neither a cameras.json (keys extrinsics and intrinsics) nor a transforms.json (key frames); "
        f"its keys are {sorted(content)[:8]}"
    )


def read_gen3r_cameras(path: Path, *, metres_per_unit: float | None = None) -> CameraPath:
    """Reads a ``cameras.json``; arguments, result and errors as :func:`read_cameras`."""
    return _path_of(path, *_parse_gen3r(path, _read_object(path)), GEN3R_IMAGE_SIZE, metres_per_unit)


def read_transforms(
    path: Path, *, axes: Axes = "opengl", metres_per_unit: float | None = None, seen_only: bool = False
) -> CameraPath:
    """Reads a ``transforms.json``; arguments, result and errors as :func:`read_cameras`.

    Missing ``fl_y`` is ``fl_x``; missing ``fl_x`` comes from ``camera_angle_x`` (radians); missing ``cx``
    and ``cy`` are the middle. Lens distortion is not modelled: coefficients are ignored with a warning.
    Frames keep the order of the file. With ``seen_only`` those that were generated (key ``generated``, which our
    maps have) are left out; it is an error if there are no others.
    """
    return _path_of(path, *_parse_transforms(path, _read_object(path), axes, seen_only)[:3], metres_per_unit)


def read_transforms_files(path: Path, *, seen_only: bool = False) -> list[str]:
    """The ``file_path`` of each frame of a ``transforms.json``, as written there.

    Args:
        path: the file.
        seen_only: leave out frames that were generated, as :func:`read_transforms` does.

    Raises:
        InputError: naming file and frame, if one has none.
    """
    frames = _frames(path, _read_object(path), seen_only)
    return [_text(path, f"frame {index}", frame, "file_path") for index, frame in frames.items()]


def format_gen3r_cameras(T_cam_world: Tensor, intrinsics: Tensor) -> str:
    """The text of a ``cameras.json``.

    Args:
        T_cam_world: ``[F, 3, 4]`` or ``[F, 4, 4]`` float, world to camera, OpenCV axes.
        intrinsics: ``[F, 3, 3]`` float, pixels of a 560x560 image
            (:func:`gen3r_core.geometry.cameras.scale_intrinsics` gets them there).

    Raises:
        OutputError: if shapes do not fit or values are not finite.
    """
    _check_arrays(T_cam_world, intrinsics)
    extrinsics = homogeneous(T_cam_world).detach().cpu().tolist()
    return _dump({"extrinsics": extrinsics, "intrinsics": intrinsics.detach().cpu().tolist()})


def write_gen3r_cameras(path: Path, T_cam_world: Tensor, intrinsics: Tensor) -> None:
    """Writes :func:`format_gen3r_cameras` to a file; raises OutputError if that fails."""
    write_text_atomic(path, format_gen3r_cameras(T_cam_world, intrinsics))


def format_transforms(
    T_world_cam: Tensor,
    intrinsics: Tensor,
    image_size: tuple[int, int],
    file_paths: Sequence[str],
    *,
    axes: Axes = "opengl",
) -> str:
    """The text of a ``transforms.json`` with the pinhole numbers in each frame.

    Args:
        T_world_cam: ``[F, 4, 4]`` float, camera to world, OpenCV axes.
        intrinsics: ``[F, 3, 3]`` float, pixels of ``image_size``, zero skew.
        image_size: ``(height, width)``.
        file_paths: F names of images, relative to the file.
        axes: which axes to write.

    Raises:
        OutputError: if shapes or lengths do not fit or values are not finite.
    """
    _check_arrays(T_world_cam, intrinsics)
    poses = homogeneous(T_world_cam).detach().cpu().double().numpy() @ _flip(axes)
    if len(file_paths) != len(poses):
        raise OutputError(f"transforms.json needs one file name for each of {len(poses)} frames, got {len(file_paths)}")
    height, width = image_size
    frames = [
        {
            "file_path": name,
            "fl_x": K[0][0],
            "fl_y": K[1][1],
            "cx": K[0][2],
            "cy": K[1][2],
            "w": width,
            "h": height,
            "transform_matrix": (pose + 0.0).tolist(),  # + 0.0 turns -0.0 into 0.0
        }
        for name, K, pose in zip(file_paths, intrinsics.detach().cpu().tolist(), poses, strict=True)
    ]
    return _dump({"camera_model": "OPENCV", "frames": frames})


def write_transforms(
    path: Path,
    T_world_cam: Tensor,
    intrinsics: Tensor,
    image_size: tuple[int, int],
    file_paths: Sequence[str],
    *,
    axes: Axes = "opengl",
) -> None:
    """Writes :func:`format_transforms` to a file; raises OutputError if that fails."""
    write_text_atomic(path, format_transforms(T_world_cam, intrinsics, image_size, file_paths, axes=axes))


def _parse_gen3r(path: Path, content: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lists: dict[str, list[Any]] = {}
    for key in ("extrinsics", "intrinsics"):
        value = content.get(key)
        if not isinstance(value, list) or not value:
            raise InputError(f"{path}: {key!r} must be a list with one matrix for each frame, got {_short(value)}")
        lists[key] = value
    count, other = len(lists["extrinsics"]), len(lists["intrinsics"])
    if count != other:
        raise InputError(f"{path}: there are {count} extrinsics but {other} intrinsics; each frame needs both")
    world_to_camera = np.stack([_pose(path, i, "extrinsics", value) for i, value in enumerate(lists["extrinsics"])])
    intrinsics = np.stack([_intrinsics(path, i, value) for i, value in enumerate(lists["intrinsics"])])
    return np.linalg.inv(world_to_camera).astype(np.float64), intrinsics


def _parse_transforms(
    path: Path, content: Mapping[str, Any], axes: Axes, seen_only: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, int], list[Mapping[str, Any]]]:
    if "camera_axes" in content and content["camera_axes"] not in get_args(Axes):
        raise InputError(f"{path}: 'camera_axes' are 'opengl' or 'opencv', got {_short(content['camera_axes'])}")
    flip = _flip(content.get("camera_axes", axes))
    frames = _frames(path, content, seen_only)
    poses, intrinsics, sizes = [], [], []
    for index, frame in frames.items():
        if "transform_matrix" not in frame:
            raise InputError(f"{path}: frame {index} has no 'transform_matrix'")
        poses.append(_pose(path, index, "transform_matrix", frame["transform_matrix"]) @ flip)
        numbers, size = _pinhole(path, index, {**content, **frame})
        intrinsics.append(numbers)
        sizes.append(size)
        if size != sizes[0]:
            raise InputError(
                f"{path}: images must all have one size (height, width), but frame {index} has {size} and "
                f"frame {next(iter(frames))} {sizes[0]}; bring them to one size"
            )
    if any(source.get(key) for source in (content, *frames.values()) for key in _DISTORTION):
        _LOG.warning("%s: lens distortion (%s) is ignored; undistort the images first", path, ", ".join(_DISTORTION))
    return np.stack(poses), np.stack(intrinsics), sizes[0], list(frames.values())


def _pinhole(path: Path, index: int, values: Mapping[str, Any]) -> tuple[NDArray[np.float64], tuple[int, int]]:
    where = f"frame {index}"
    width, height = (_number(path, where, values, key) for key in ("w", "h"))
    if width is None or height is None or not (width >= 1 and height >= 1 and width % 1 == 0 and height % 1 == 0):
        raise InputError(
            f"{path}: {where} needs the image size as whole numbers 'w' and 'h' (in the frame or once for all), "
            f"got {_short(values.get('w'))} and {_short(values.get('h'))}"
        )
    fx = _focal(path, where, values, "fl_x", "camera_angle_x", width)
    fy = _focal(path, where, values, "fl_y", "camera_angle_y", height)
    if fx is None:
        raise InputError(f"{path}: {where} needs a focal length 'fl_x' in pixels, or 'camera_angle_x' in radians")
    fy = fx if fy is None else fy
    cx, cy = (_number(path, where, values, key) for key in ("cx", "cy"))
    matrix = [[fx, 0, width / 2 if cx is None else cx], [0, fy, height / 2 if cy is None else cy], [0, 0, 1]]
    return _intrinsics(path, index, matrix), (int(height), int(width))


def _focal(path: Path, where: str, values: Mapping[str, Any], key: str, angle_key: str, side: float) -> float | None:
    focal, angle = _number(path, where, values, key), _number(path, where, values, angle_key)
    if focal is not None or angle is None:
        return focal
    if not 0 < angle < math.pi:
        raise InputError(f"{path}: {where}: {angle_key!r} is an angle between 0 and pi, got {angle}")
    return side / 2 / math.tan(angle / 2)


def _frames(path: Path, content: Mapping[str, Any], seen_only: bool) -> dict[int, Mapping[str, Any]]:
    """Frames by their places in the file, at least one."""
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path}: 'frames' must be a list of at least one frame, got {_short(frames)}")
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise InputError(f"{path}: frame {index} must be an object with a 'transform_matrix', got {_short(frame)}")
    found = {index: frame for index, frame in enumerate(frames) if not (seen_only and frame.get("generated"))}
    if not found:
        raise InputError(f"{path}: all of its {len(frames)} frames were generated; none was seen")
    return found


def _pose(path: Path, index: int, key: str, value: Any) -> NDArray[np.float64]:
    pose = _matrix(path, index, key, value, ((4, 4), (3, 4)))
    if pose.shape == (3, 4):
        pose = np.concatenate([pose, [[0, 0, 0, 1]]])
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-6):
        raise InputError(f"{path}: frame {index}: the last row of {key!r} must be 0 0 0 1, got {pose[3].tolist()}")
    if not np.linalg.det(pose[:3, :3]) > 1e-6:
        raise InputError(
            f"{path}: frame {index}: {key!r} is singular or mirrored; its 3x3 part must be a rotation "
            f"(determinant 1), the determinant is {np.linalg.det(pose[:3, :3]):.3g}"
        )
    return pose


def _intrinsics(path: Path, index: int, value: Any) -> NDArray[np.float64]:
    K = _matrix(path, index, "intrinsics", value, ((3, 3),))
    if not (K[0, 0] > 0 and K[1, 1] > 0):
        raise InputError(f"{path}: frame {index}: focal lengths must be positive, got {K[0, 0]} and {K[1, 1]}")
    rest = np.array([K[0, 1], K[1, 0], *(K[2] - [0, 0, 1])]) / max(K[0, 0], 1.0)
    if np.abs(rest).max() > 1e-6:
        raise InputError(
            f"{path}: frame {index}: intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] without skew, "
            f"got {K.tolist()}"
        )
    return K


def _matrix(path: Path, index: int, key: str, value: Any, shapes: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    wanted = " or ".join(f"{rows}x{columns}" for rows, columns in shapes)
    try:
        raw = np.array(value)
    except ValueError:  # rows of different lengths
        raw = np.array(None)
    if raw.dtype.kind not in "if" or raw.shape not in shapes:
        shape = f"shape {raw.shape}" if raw.dtype.kind in "if" else _short(value)
        raise InputError(f"{path}: frame {index}: {key!r} must be a {wanted} matrix of numbers, got {shape}")
    matrix = raw.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise InputError(f"{path}: frame {index}: {key!r} contains NaN or infinite values")
    return matrix


def _number(path: Path, where: str, values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise InputError(f"{path}: {where}: {key!r} must be a finite number, got {_short(value)}")
    return float(value)


def _text(path: Path, where: str, values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: {where} needs a {key!r}, got {_short(value)}")
    return value


def _read_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: {path.stat().st_size} bytes are too many for a camera file; check the path")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such camera file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: this camera file cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: this camera file is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a camera file holds a JSON object, got {_short(content)}")
    return content


def _path_of(
    path: Path,
    T_world_cam: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    image_size: tuple[int, int],
    metres_per_unit: float | None,
) -> CameraPath:
    try:
        return CameraPath(torch.from_numpy(T_world_cam), torch.from_numpy(intrinsics), image_size, metres_per_unit)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _flip(axes: Axes) -> NDArray[np.float64]:
    if axes not in get_args(Axes):
        raise InputError(f"camera axes are 'opengl' or 'opencv', got {axes!r}")
    return _FLIP_Y_AND_Z if axes == "opengl" else np.eye(4)


def _check_arrays(poses: Tensor, intrinsics: Tensor) -> None:
    if poses.ndim != 3 or poses.shape[1:] not in ((3, 4), (4, 4)) or intrinsics.shape != (len(poses), 3, 3):
        raise OutputError(
            f"cameras to write must be poses [F, 4, 4] and intrinsics [F, 3, 3], got {tuple(poses.shape)} and "
            f"{tuple(intrinsics.shape)}"
        )


def _dump(value: object) -> str:
    try:
        return json.dumps(value, indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise OutputError("cameras to write contain NaN or infinite values; nothing was written") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
