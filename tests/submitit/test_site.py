"""The cluster's file: what is missing or unknown is one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.site import (
    OPTIONAL,
    REQUIRED,
    Site,
    read_site,
)


def written(folder: Path, text: str) -> Path:
    """A cluster file with this text."""
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def refused(path: Path, kind: str | None = None) -> str:
    """The one line with which a file, or a section of it, is refused."""
    site = Site() if kind is None else read_site(path)
    with pytest.raises(WorkflowError) as caught:
        read_site(path) if kind is None else site.values(kind)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_without_a_file_the_cluster_decides() -> None:
    """No file means no values, for any kind of job."""
    assert read_site(None) == Site()
    assert read_site(None).values("gpu") == {}


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    """Sections, null for the cluster's default, numbers as text, and setup lines."""
    text = """
cpu: {partition: cpu, account: null}
gpu: {partition: gpu, account: mylab, qos: 7, gpu_model: a100, constraint: ib}
setup: [module load cuda, "export A=1"]
"""
    site = read_site(written(tmp_path, text))
    assert site.values("cpu") == {"partition": "cpu", "account": None}
    assert site.values("gpu")["qos"] == "7"
    assert site.setup == ("module load cuda", "export A=1")


def test_a_missing_file_names_the_example_to_copy(tmp_path: Path) -> None:
    """Beside an example the line is a command; without one it says what to write."""
    path = tmp_path / "cluster.yaml"
    assert "`cpu:`" in refused(path)
    (tmp_path / "cluster.example.yaml").touch()
    assert f"cp {tmp_path / 'cluster.example.yaml'} {path}" in refused(path)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named_with_how_to_find_its_value(
    tmp_path: Path, key: str
) -> None:
    """null is an answer, silence is none; only a section that is used is checked."""
    other = next(k for k in REQUIRED if k != key)
    text = f"cpu: {{partition: null, account: null}}\ngpu: {{{other}: x}}\n"
    path = written(tmp_path, text)
    assert read_site(path).values("cpu") == {"partition": None, "account": None}
    line = refused(path, "gpu")
    assert f"gpu.{key} is missing" in line
    assert "null" in line


def test_a_missing_section_says_which_jobs_need_it(tmp_path: Path) -> None:
    """The line tells the user what to add, and why."""
    path = written(tmp_path, "gpu: {partition: a, account: b}\n")
    assert "no accelerator" in refused(path, "cpu")
    assert "ask for a tpu" in refused(path, "tpu")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("partion", "partition"), ("acount", "account"), ("gpu-model", "gpu_model")],
)
def test_an_unknown_key_names_the_nearest_one(
    tmp_path: Path, wrong: str, right: str
) -> None:
    """A slip of the pen is found at once, not by a job in the wrong partition."""
    line = refused(written(tmp_path, f"cpu: {{{wrong}: x}}\n"))
    assert f"cpu.{wrong} is not known" in line
    assert f"did you mean {right}?" in line


def test_an_unknown_key_that_is_near_nothing_lists_all(tmp_path: Path) -> None:
    """With no likely word the line has the words that are known."""
    line = refused(written(tmp_path, "cpu: {zzz: x}\n"))
    assert all(word in line for word in (*REQUIRED, *OPTIONAL))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "sections"),
        ("# nothing\n", "sections"),
        ("- a\n", "sections"),
        ("cpu\n", "sections"),
        ("partition: cpu\n", "partition: expected keys"),
        ("cpu: null\n", "cpu: expected keys"),
        ("cpu: {partition: [a, b]}\n", "cpu.partition: expected text"),
        ("cpu: {partition: {a: b}}\n", "cpu.partition: expected text"),
        ("setup: module load cuda\n", "setup: expected a list"),
        ("setup: [1]\n", "setup: expected a list"),
        ("cpu: {max_runtime: 2h}\n", "cpu.max_runtime: expected whole minutes"),
        ("cpu: {max_runtime: 0}\n", "cpu.max_runtime: expected whole minutes"),
        ("cpu: {partition: a\n", "cannot be read as YAML"),
        ("cpu: \t a: b\n  c\n", "cannot be read as YAML"),
    ],
)
def test_a_file_of_another_shape_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    """Whatever stands in the file, there is one line with the place in it."""
    assert words in refused(written(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A picture given by mistake is one line, too."""
    path = tmp_path / "cluster.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read" in refused(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder given by mistake is one line."""
    assert "cannot be read" in refused(tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["cpu", "gpu", "setup", "partition", "x"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_any_yaml_is_read_or_refused_with_one_line(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    """No content of a file ends in anything but values or one line."""
    import yaml

    path = written(tmp_path_factory.mktemp("site"), yaml.safe_dump(value))
    line = ""
    try:
        site = read_site(path)
    except WorkflowError as error:
        line = str(error)
    if line:
        assert len(line.splitlines()) == 1
    else:
        assert all(isinstance(s, dict) for s in site.sections.values())


def test_an_empty_text_is_not_sent_to_sbatch(tmp_path: Path) -> None:
    """`partition: ""` means the cluster's default or is refused, as a slip."""
    path = written(tmp_path, 'cpu: {partition: "", account: null}\n')
    try:
        value = read_site(path).values("cpu")["partition"]
    except WorkflowError:
        return
    assert value is None


def test_null_is_no_greatest_time(tmp_path: Path) -> None:
    """As for every other key, null leaves it to the cluster."""
    path = written(tmp_path, "cpu: {partition: a, account: b, max_runtime: null}\n")
    assert read_site(path).values("cpu")["max_runtime"] is None
