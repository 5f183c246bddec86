"""What lies in a checkpoint folder: our layout, the published one, or upstream's training parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from gen3r_core.checkpoint.components import SPECS, ComponentSpec, Config
from gen3r_core.checkpoint.keymap import KeyMap
from gen3r_core.checkpoint.packaged import PACKAGED, packaged_folder
from gen3r_core.checkpoint.quantised import dequantised
from gen3r_core.checkpoint.tensors import TensorSource, open_weights
from gen3r_core.errors import CheckpointError
from gen3r_core.geometry_source import GeometrySource

MANIFEST = "gen3r.json"
"""The file that marks our layout: format, defaults, and size and SHA-256 of every file."""

FORMAT_VERSION = 1
PUBLISHED_DEFAULTS: dict[str, Any] = {
    "num_frames": 49,
    "image_size": [560, 560],
    "steps": 50,
    "guidance": 5.0,
    "geometry": "latents",
}
GENERATION = ("steps", "guidance", "geometry")
"""Those of the defaults that say how to generate."""

SCHEDULER_DEFAULTS: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 2.0, "use_dynamic_shifting": False}

WAN_PARTS = {
    "transformer": ".",
    "video_vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "image_encoder": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "tokenizer": "google/umt5-xxl",
}
"""Files of a Wan2.1-Fun base folder, as upstream's training configuration names them."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}. Copy or download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


@dataclass(frozen=True)
class ComponentFiles:
    """One component on disk.

    Attributes:
        spec: which network it is.
        path: its folder or weight file.
        layout: "gen3r", "published" or "parts".
        raw_config: ``config.json`` as it stands.
        facts: size and SHA-256 of the folder's files, by name, as our layout's ``gen3r.json`` lists them.
        problem: why the component cannot be used, None if nothing is known against it; it is raised when
            the component is opened, so that the others can still be.
    """

    spec: ComponentSpec
    path: Path
    layout: str
    raw_config: Mapping[str, Any]
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problem: str | None = None

    @cached_property
    def config(self) -> Config:
        """Our configuration of the network."""
        self._check()
        if self.layout == "gen3r":
            return dict(self.raw_config)
        config = self.spec.config_from_published(self.raw_config)
        if self.layout == "parts" and self.spec.name == "transformer":
            # Noisy latents, control latents and a mask for four folded frames.
            config["in_channels"] = 2 * config["out_channels"] + 4
        return config

    @cached_property
    def source(self) -> TensorSource:
        """Its tensors, read lazily; stays open until :meth:`close`."""
        self._check()
        return dequantised(open_weights(self.path))

    @cached_property
    def keymap(self) -> KeyMap:
        """Rules for its keys."""
        if self.layout == "gen3r":
            return self.spec.own_keys
        values = {**self.raw_config, "pad_input_channels": self.layout == "parts"}
        return self.spec.published_keys(values, self.config, self.source.infos)

    def close(self) -> None:
        """Let go of the files, and of the tensors of a pickle that could not be mapped; reading opens them again."""
        self.__dict__.pop("source", None)

    def _check(self) -> None:
        _check_sizes(self.path, self.facts)
        if self.problem is not None:
            raise CheckpointError(self.problem)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk; nothing is loaded yet.

    Attributes:
        root: folder, for messages.
        layout: "gen3r", "published" or "parts".
        components: those that are there, by our name.
        tokenizer: folder of the tokenizer, None if absent.
        scheduler: arguments of the flow-matching Euler scheduler.
        defaults: ``num_frames`` and ``image_size`` the model was trained for; denoising ``steps``, ``guidance`` and
            ``geometry`` (see :class:`gen3r_core.geometry_source.GeometrySource`) that suit it.
        manifest: content of ``gen3r.json`` in our layout.
    """

    root: Path
    layout: str
    components: Mapping[str, ComponentFiles]
    tokenizer: Path | None
    scheduler: Mapping[str, Any]
    defaults: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What people call it: its folder's name, or that of the model in this package."""
        return PACKAGED if self.root == packaged_folder() else self.root.absolute().name

    def component(self, name: str) -> ComponentFiles:
        """A component's files.

        Raises:
            CheckpointError: the checkpoint does not hold it.
        """
        if name in self.components:
            return self.components[name]
        if self.layout == "parts":
            place = f"{WAN_PARTS[name]} in the Wan base folder" if name in WAN_PARTS else "a path of its own"
            raise CheckpointError(f"the parts around {self.root} lack the {name}; it is expected at {place}")
        raise CheckpointError(
            f"{self.root} has no {name} (folder {folder_name(name, self.layout)!r}); "
            f"'gen3r info {self.root}' lists what is there"
        )


def folder_name(name: str, layout: str) -> str:
    """A component's folder in a layout."""
    return SPECS[name].name if layout == "gen3r" else SPECS[name].published


def scheduler_config(folder: Path) -> dict[str, Any]:
    """Arguments of the scheduler from its folder; the usual ones where there is no such file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = folder / "scheduler_config.json"
    if not path.is_file():
        return dict(SCHEDULER_DEFAULTS)
    values = read_json(path)
    return {key: value for key, value in values.items() if not key.startswith("_")}


def open_checkpoint(root: Path | str | None = None) -> Checkpoint:
    """Look into a checkpoint folder of our or the published layout, or a Wan2.1-Fun base folder.

    Args:
        root: the folder; None or "gen3r-small" for the model in this package, unless there is a folder of that name.

    Raises:
        CheckpointError: the folder does not exist or is none of these, or the package came without a model.
    """
    if root is None or (str(root) == PACKAGED and not Path(root).is_dir()):
        return _open_packaged(named=root is not None)
    root = Path(root)
    if not root.is_dir():
        raise CheckpointError(
            f"checkpoint folder {root} does not exist. 'gen3r fetch REPO_ID {root}' downloads a published one"
        )
    if (root / MANIFEST).is_file():
        manifest = _read_manifest(root / MANIFEST)
        return _assemble(root, "gen3r", {**PUBLISHED_DEFAULTS, **manifest["defaults"]}, manifest)
    if (root / "model_index.json").is_file():
        read_json(root / "model_index.json")
        return _assemble(root, "published", PUBLISHED_DEFAULTS, {})
    if (root / WAN_PARTS["video_vae"]).is_file():
        return open_parts(wan_base=root)
    raise CheckpointError(
        f"{root} is not a checkpoint: it holds neither {MANIFEST} (our layout), nor model_index.json (published "
        f"layout), nor {WAN_PARTS['video_vae']} (Wan base folder)"
    )


def _open_packaged(*, named: bool) -> Checkpoint:
    folder = packaged_folder()
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"{'' if named else 'no checkpoint was named, and '}this copy of gen3r came without the weights of "
            f"{PACKAGED} ({folder}). Name a checkpoint folder; 'gen3r fetch REPO_ID FOLDER' downloads a published one"
        )
    return open_checkpoint(folder)


def _read_manifest(path: Path) -> dict[str, Any]:
    """``gen3r.json``, checked; ``defaults`` and ``files`` are there."""
    manifest = read_json(path)
    if manifest.get("format") != "gen3r" or manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {manifest.get('format')!r}, version {manifest.get('format_version')!r}; "
            f"this release reads version {FORMAT_VERSION}. Convert the original checkpoint again"
        )
    manifest = {"defaults": {}, "files": {}, "licences": {}, **manifest}
    try:
        for name, facts in manifest["files"].items():
            inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
            if not (inside and isinstance(facts["bytes"], int) and isinstance(facts["sha256"], str)):
                raise ValueError(f"the entry of file {name!r} is {facts!r}")
        sizes = [manifest["defaults"].get("num_frames", 1), *manifest["defaults"].get("image_size", (1, 1))]
        if not all(isinstance(text, str) for text in manifest["licences"].values()):
            raise ValueError(f"licences are {manifest['licences']!r}")
        if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"defaults are {manifest['defaults']!r}")
        steps, guidance = manifest["defaults"].get("steps", 1), manifest["defaults"].get("guidance", 1.0)
        if not (isinstance(steps, int) and steps > 0 and 0 <= float(guidance) < 1000):
            raise ValueError(f"defaults are {manifest['defaults']!r}")
        GeometrySource(manifest["defaults"].get("geometry", GeometrySource.LATENTS))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Convert the original checkpoint again") from error
    return manifest


def _check_sizes(folder: Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    for name, own in facts.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, but {MANIFEST} lists it. Copy the checkpoint again")
        if path.stat().st_size != own["bytes"]:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes instead of {own['bytes']}: it is truncated or was changed. "
                f"Copy the checkpoint again"
            )


def _facts_of(folder: str, manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a manifest says about the files of a sub-folder, by name within it."""
    found = manifest.get("files", {}).items()
    return {name.removeprefix(f"{folder}/"): facts for name, facts in found if name.startswith(f"{folder}/")}


def _read_config(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Content of a component's ``config.json`` without the writer's remarks, and what is wrong with it."""
    path = folder / "config.json"
    try:
        values = read_json(path) if path.is_file() else {}
    except CheckpointError as error:
        return {}, str(error)
    return {key: value for key, value in values.items() if not key.startswith("_")}, None


def _assemble(root: Path, layout: str, defaults: Mapping[str, Any], manifest: Mapping[str, Any]) -> Checkpoint:
    components = {}
    for name, spec in SPECS.items():
        folder = root / folder_name(name, layout)
        if folder.is_dir():
            values, problem = _read_config(folder)
            facts = _facts_of(folder.name, manifest)
            components[name] = ComponentFiles(spec, folder, layout, values, facts, problem)
    tokenizer = root / "tokenizer"
    if tokenizer.is_dir():
        _check_sizes(tokenizer, _facts_of("tokenizer", manifest))
    _check_sizes(root / "scheduler", _facts_of("scheduler", manifest))
    return Checkpoint(
        root=root,
        layout=layout,
        components=components,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        scheduler=scheduler_config(root / "scheduler"),
        defaults=defaults,
        manifest=manifest,
    )


def open_parts(
    wan_base: Path | str | None = None,
    vggt: Path | str | None = None,
    geo_adapter: Path | str | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Checkpoint:
    """Put a checkpoint together from the parts that upstream's trainers load.

    Args:
        wan_base: a Wan2.1-Fun-1.3B-Control-Camera folder (transformer, VAE, UMT5, CLIP, tokenizer).
            Its transformer has 32 input channels; the four for the mask are added as zeros.
        vggt: VGGT-1B, a folder or a weight file.
        geo_adapter: the geometry adapter, a folder or a weight file.
        configs: published-style configuration per component (our names), for parts of other sizes
            than the full model's where no ``config.json`` says so.

    Raises:
        CheckpointError: a path that was given does not exist.
    """
    given: dict[str, Path] = {}
    tokenizer: Path | None = None
    root = Path(wan_base) if wan_base is not None else Path()
    if wan_base is not None:
        if not root.is_dir():
            raise CheckpointError(f"Wan base folder {root} does not exist")
        for name, relative in WAN_PARTS.items():
            path = root / relative
            if name == "tokenizer":
                tokenizer = path if path.is_dir() else None
            elif path.exists():
                given[name] = path
    for name, part_path in (("vggt", vggt), ("geometry_adapter", geo_adapter)):
        if part_path is not None:
            given[name] = Path(part_path)
    components = {}
    for name, path in given.items():
        if not path.exists():
            raise CheckpointError(f"{name}: {path} does not exist")
        values: dict[str, Any] = {}
        problem = None
        # Beside a weight file of a Wan base folder stands the transformer's configuration.
        if path.is_dir() or name not in ("video_vae", "text_encoder", "image_encoder"):
            values, problem = _read_config(path if path.is_dir() else path.parent)
        values.update((configs or {}).get(name, {}))
        components[name] = ComponentFiles(SPECS[name], path, "parts", values, problem=problem)
    return Checkpoint(
        root=root,
        layout="parts",
        components=components,
        tokenizer=tokenizer,
        scheduler=dict(SCHEDULER_DEFAULTS),
        defaults=PUBLISHED_DEFAULTS,
    )
