"""Where a model comes from: an experiment of config.yaml, or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep import checkpoints, files
from fewstep.api.arguments import path_of, wrong
from fewstep.api.experiment import (
    NotebookGraph,
    check_numbers,
    checked,
    fetch_asset,
)
from fewstep.api.model import Model
from fewstep.codedigest import cache_folder, digest
from fewstep.config import Config, load_config
from fewstep.config.base import is_path
from fewstep.errors import UserError
from fewstep.stages import (
    prepare_flow,
    prepare_par,
    prepare_tarflow,
    prepare_tokenizer,
)

_PREPARE = {
    "par": prepare_par.prepare,
    "seqrf": prepare_flow.prepare,
    "tarflow": prepare_tarflow.prepare,
    "tokenizer": prepare_tokenizer.prepare,
}
_KEYS = {
    "tarflow": ("model",),
    "seqrf": ("model", "segments"),
    "par": ("model",),
}
_TELLS = {"patch_size": "tarflow", "nf": "seqrf", "ar_token_num": "par"}
"""A key of an architecture -> the system that has it."""
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_FIRST: dict[str, dict[str, Any]] = {
    "tarflow": {"for": {"strategy": "for"}},
    "seqrf": {"rk45": {"solver": "rk45", "tol": 1e-3}},
    "par": {"plain": {}},
}
_NO_NOISE = {"kind": "uniform"}
"""Only self-denoising asks for a TarFlow's training noise."""
_CHECKOUT = Path(__file__).resolve().parents[3]


def load(
    name: str | Path,
    *,
    system: str | None = None,
    model: Mapping[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    config: str | Path | None = None,
    **settings: Any,
) -> Model:
    """A model with its samplers.

    Args:
        name: an experiment of config.yaml, such as "demo-tarflow", or the path of a
            checkpoint. Of an experiment the workflow's own weights are taken where
            results/ has them; else its asset is fetched, verified and converted into
            the user's cache, as the workflow does.
        system: of a checkpoint: "tarflow", "seqrf" or "par". Files that fewstep wrote
            know it, and `model`.
        model: architecture of a checkpoint, by the keys of config.yaml.
        tokenizer: of a PAR checkpoint: the tokenizer's file, written by fewstep.
        config: instead of ./config.yaml, or of the checkout's where there is none.
        settings: of a checkpoint: further keys of an experiment, such as `noise`,
            `sampling`, `segments` or `samplers`.

    Raises:
        UserError: one line for a name, file, architecture or setting that is wrong.
    """
    text = str(name)
    if is_path(text) or text.endswith(_SUFFIXES):
        given = dict(settings)
        return _of_file(Path(name), system, model, tokenizer, given)
    if system or model or tokenizer or settings:
        raise UserError(
            f"{text!r} is an experiment, which knows its system and settings",
            expected="no other arguments, or the path of a checkpoint",
        )
    return _of_experiment(text, config)


def _of_experiment(name: str, config: str | Path | None) -> Model:
    path = path_of(config, "config") if config is not None else _config_file()
    assets = path.parent / "workflow" / "assets.yaml"
    known = load_config(path, assets=assets if assets.is_file() else None)
    if name not in known.experiments:
        few = ", ".join(list(known.experiments)[:4])
        raise UserError(
            f"no experiment {name!r}",
            where=str(path),
            expected=f"one of its {len(known.experiments)}, such as {few}",
        )
    graph = NotebookGraph(known, path.parent, workflow=known)
    weights = _weights(graph, name)
    own = known.experiments[name]
    if own.system == "par":
        graph.tokenizer = _tokenizer(graph, own.tokenizer)
    return Model(name, graph, weights)


def _config_file() -> Path:
    """./config.yaml, else the one of the checkout that this library lies in."""
    for folder in (Path(), _CHECKOUT):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    raise UserError("no config.yaml here", do="pass its path as config=")


def _weights(graph: NotebookGraph, name: str) -> Path:
    """The workflow's weights of an experiment, or its asset's."""
    made = graph.root / "results" / name / "model.safetensors"
    if made.is_file():
        return made
    own = graph.experiments[name]
    if own.checkpoint is None:
        raise UserError(
            f"the weights of {name} are trained by the workflow, and not there",
            where=str(made),
            do=f"run `snakemake --profile local results/{name}/model.safetensors`",
        )
    spec = graph.experiment(name, *_KEYS[own.system])
    return _prepared(own.system, spec, _fetched(graph, own.checkpoint))


def _tokenizer(graph: NotebookGraph, name: str) -> Path:
    """The workflow's weights of a tokenizer, or its asset's."""
    made = graph.root / graph.tokenizer_file(name)
    if made.is_file():
        return made
    own = graph.config.tokenizers[name]
    if own.checkpoint is None:
        raise UserError(
            f"the tokenizer {name} is trained by the workflow, and not there",
            where=str(made),
            do=f"run `snakemake --profile local results/tokenizers/{name}.safetensors`",
        )
    spec = graph.tokenizer_model(name)
    return _prepared("tokenizer", spec, _fetched(graph, own.checkpoint))


def _fetched(graph: NotebookGraph, wanted: str) -> Path:
    """The file of an asset, fetched and verified, or a path of the configuration."""
    if is_path(wanted):
        return graph.root / wanted
    return fetch_asset(graph, wanted)


def _prepared(kind: str, spec: dict[str, Any], source: Path) -> Path:
    """A checkpoint converted as the workflow does, once, in the user's cache."""
    prepare = _PREPARE[kind]
    sha256 = files.sha256_file(source)
    key = files.sha256_json([kind, spec, sha256, digest(prepare.__module__)])
    out = cache_folder() / "models" / key[:16] / "model.safetensors"
    if not out.is_file():
        prepare(spec, source, None, out)
    return out


def _of_file(
    path: Path,
    system: str | None,
    model: Mapping[str, Any] | None,
    tokenizer: str | Path | None,
    settings: dict[str, Any],
) -> Model:
    """A model of a checkpoint that no configuration names."""
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    ours = checkpoints.read_manifest(path) if path.suffix == ".safetensors" else {}
    model = model if model is not None else ours.get("model")
    if not isinstance(model, Mapping | None):
        raise wrong(model, "model", "keys of the architecture, as in config.yaml")
    system = str(system or _system_of(model or {}))
    if system not in _FIRST or model is None:
        raise UserError(
            "does not say what model it holds",
            where=str(path),
            expected="system= ('tarflow', 'seqrf' or 'par') and model={…}",
        )
    name = path.stem
    wanted = {
        "system": system,
        "model": dict(model),
        "dataset": "none",
        "evaluation": {"reference": "none", "n": 2},
        "samplers": _FIRST[system],
        "timing": {"baseline": _baseline(settings.get("samplers", _FIRST[system]))},
        **({"noise": ours.get("noise", _NO_NOISE)} if system == "tarflow" else {}),
        **({"segments": ours["segments"]} if "segments" in ours else {}),
        **settings,
    }
    config: dict[str, Any] = {"experiments": {"local": wanted}}
    where, place = f"load({str(path)!r})", None
    if system == "par":
        wanted["tokenizer"] = "local"
        content, place = _tokenizer_file(tokenizer)
        about = {"model": content, "checkpoint": "./local", "dataset": "none"}
        config["tokenizers"] = {"local": about}
    known: Config = checked(Config, config, where, skipped=2).with_assets({})
    graph = NotebookGraph(known, Path(), place)
    check_numbers(graph, "local", where=where)
    spec = graph.experiment("local", *_KEYS[system])
    weights = _prepared(system, spec, path)
    return Model("local", graph, weights, title=name)


def _tokenizer_file(tokenizer: str | Path | None) -> tuple[dict[str, Any], Path]:
    """The architecture of a tokenizer that fewstep wrote, and its weights."""
    if tokenizer is None:
        raise UserError("PAR decodes with a tokenizer", expected="tokenizer=PATH")
    path = path_of(tokenizer, "tokenizer")
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    content = checkpoints.read_manifest(path).get("model", {})
    spec = {"name": "local", "model": content}
    return content, _prepared("tokenizer", spec, path)


def _baseline(samplers: object) -> str:
    """The first sampler's name; of what names none the check of all settings tells."""
    first = next(iter(samplers), "") if isinstance(samplers, Mapping) else ""
    return str(first)


def _system_of(model: Mapping[str, Any]) -> str | None:
    """The system that an architecture's keys belong to."""
    return next((own for key, own in _TELLS.items() if key in model), None)
