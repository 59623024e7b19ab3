"""The rules that keep the data flow readable: who imports whom, who does I/O, and what every part must have."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from filters.registry import all_filters
from infra.config import Config
from pipeline.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("crawl", "dedup", "filters", "infra", "model", "pipeline", "shards", "train")
MODULES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))

ALLOWED = {
    "crawl": {"infra"},
    "dedup": {"infra"},
    "filters": {"infra"},
    "infra": set(),
    "model": {"infra"},
    "pipeline": {"crawl", "dedup", "filters", "infra", "shards", "model.encoders"},
    "shards": {"infra"},
    "train": {"infra", "model", "shards.schema", "shards.read_state", "shards.reader", "shards.manifest"},
}

# One vendor, one module (or one folder).
VENDORS = {
    "botocore": {"crawl/object_store.py"},
    "feedparser": {"crawl/source_feed.py"},
    "protego": {"crawl/robots.py"},
    "urllib3": {"crawl/answer.py", "crawl/http.py", "crawl/http_pool.py", "crawl/object_store.py"},
    "av": {"infra/media/", "train/decode.py"},
    "deepspeed": {"train/engine.py"},
    "deltalake": {"pipeline/lake.py", "pipeline/lake_upkeep.py"},
    "duckdb": {"pipeline/catalog.py"},
    "ffmpeg": {"infra/media/", "pipeline/demo/"},
    "laion_clap": {"model/encoders/clap.py"},
    "matplotlib": {"pipeline/dataset_plots.py"},
    "obstore": {"infra/object_store.py"},
    "onnxruntime": {"model/encoders/speech.py"},
    "open_clip": {"model/encoders/clip.py"},
    "prefect": {"pipeline/flow.py"},
    "ray": {"pipeline/ray_adapter.py"},
    "silero_vad": set(),  # Its model is read as a file: importing it imports torch and sets its threads.
    "webdataset": {"shards/verify.py"},
    "yt_dlp": {"crawl/"},
}

# Modules that may touch files, processes, sockets, clocks or the environment.
DOES_IO = (
    "crawl/answer.py", "crawl/cookies.py", "crawl/fetch.py", "crawl/http.py", "crawl/http_pool.py",
    "crawl/identity.py", "crawl/object_store.py", "crawl/part_file.py", "crawl/rows.py",
    "crawl/section.py", "crawl/sidecar.py", "crawl/source_bucket.py", "crawl/source_dir.py",
    "crawl/store.py", "crawl/web.py", "crawl/ytdlp.py", "crawl/ytdlp_child.py",
    "crawl/ytdlp_fragments.py", "crawl/ytdlp_hooks.py", "infra/config.py", "infra/media/",
    "infra/object_store.py", "infra/root.py", "infra/storage.py", "infra/store.py",
    "infra/store_lock.py", "infra/telemetry.py", "model/encoders/", "pipeline/actors.py",
    "pipeline/batches.py", "pipeline/catalog.py", "pipeline/cli.py", "pipeline/cli_care.py",
    "pipeline/cli_dataset.py", "pipeline/cli_lake.py", "pipeline/cli_services.py", "pipeline/demo/",
    "pipeline/feed.py", "pipeline/flow.py", "pipeline/lake.py", "pipeline/lake_upkeep.py",
    "pipeline/ray_adapter.py", "pipeline/run_record.py", "pipeline/work_off.py", "train/checkpoint.py",
    "train/decode.py", "train/engine.py", "train/launch.py", "train/metrics.py", "train/run.py",
)  # fmt: skip
IO_MODULES = {"subprocess", "socket", "urllib.request", "http.client", "shutil", "tempfile"}


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_follow_the_arrows(path):
    folder = path.relative_to(REPOSITORY).parts[0]
    if relative(path) == "pipeline/cli.py":
        return  # The composition root.
    ours = [name for name in imported(path) if name.split(".")[0] in FOLDERS]
    wrong = [
        name
        for name in ours
        if not is_within(name, folder) and not any(is_within(name, allowed) for allowed in ALLOWED[folder])
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_vendor_has_one_module(path):
    wrong = [
        name
        for name in imported(path)
        for vendor, homes in VENDORS.items()
        if is_within(name, vendor) and not any(relative(path).startswith(home) for home in homes)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_named_modules_start_processes_or_open_sockets(path):
    if relative(path).startswith(DOES_IO):
        return
    wrong = [name for name in imported(path) if any(is_within(name, module) for module in IO_MODULES)]
    calls = [
        node.func.id
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"open", "print"}
    ]
    assert (wrong, calls) == ([], [])


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_broad_except_and_no_vague_names(path):
    lines = path.read_text().splitlines()
    handlers = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ExceptHandler)]
    broad = [
        handler.lineno
        for handler in handlers
        if handler.type is None or getattr(handler.type, "id", "") in {"Exception", "BaseException"}
        if "noqa: BLE001 - " not in lines[handler.lineno - 1]  # Excused, with the reason on the line.
    ]
    assert broad == []
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_files_stay_short_and_say_what_they_are(path):
    assert len(path.read_text().splitlines()) <= 400
    if path.name != "__init__.py":
        assert ast.get_docstring(tree_of(path)), "a module begins with what it is for"


@pytest.mark.parametrize("folder", [*FOLDERS, "pipeline/demo", "model/encoders"])
def test_every_folder_has_a_readme_of_a_page(folder):
    lines = (REPOSITORY / folder / "README.md").read_text().splitlines()
    assert 5 <= len(lines) <= 70


@pytest.mark.parametrize("spec", all_filters(), ids=lambda spec: spec.name)
def test_every_filter_has_a_source_a_test_and_one_file(spec):
    module = spec.measure.__module__.removeprefix("filters.")
    assert spec.source
    assert (REPOSITORY / "tests" / "filters" / f"test_{module}.py").is_file()


def config_classes(model: type[Config]) -> Iterator[type]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
            yield from config_classes(field.annotation)


@pytest.mark.parametrize("model", list(config_classes(Recipe)), ids=lambda model: model.__name__)
def test_every_setting_says_what_it_means(model):
    silent = [name for name, field in model.model_fields.items() if not field.description]
    assert silent == []


def test_nothing_names_a_package_host_or_an_absolute_home():
    patterns = re.compile(r"pypi\.org|pythonhosted|/root/|/home/\w+/|/work/main")
    files = [REPOSITORY / name for name in ("requirements.lock", "pyproject.toml", "Makefile", "README.md")]
    found = [(relative(path), line) for path in (*MODULES, *files) for line in path.read_text().splitlines()
             if patterns.search(line)]  # fmt: skip
    assert found == []
