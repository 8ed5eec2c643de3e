"""Whose results a run folder holds, where its config.json is gone; and a folder that is none."""

import math

import pytest

from common.errors import BadInput
from common.files import read_record
from common.run import Run


@pytest.mark.parametrize("done", [True, False], ids=["finished", "stopped"])
def test_results_without_a_config_are_not_given_to_other_settings(tmp_path, done):
    with Run(tmp_path / "a", {"lr": 0.1}, "cpu") as run:
        run.log(step=1, loss=2.0)
        run.save(1, {"x": 7})
        if done:
            run.finish(loss=2.0)
    (tmp_path / "a" / "config.json").unlink()
    with (
        pytest.raises(BadInput, match="is of another configuration: choose another --name, or delete"),
        Run(tmp_path / "a", {"lr": 0.2}, "cpu") as run,
    ):
        assert run.summary or run.resume()
    with Run(tmp_path / "a", {"lr": 0.1}, "cpu") as run:  # its own command still finds it
        assert run.summary == {"status": "ok", "loss": 2.0} if done else run.resume() == {"step": 1, "x": 7}


def test_an_infinite_setting_is_kept_as_none(tmp_path):
    Run(tmp_path, {"lr": 0.1}, "cpu", arguments={"minutes": math.inf}, differs={"minutes": math.inf}).close()
    record = read_record(tmp_path / "config.json")
    assert record["arguments"] == record["differs"] == {"minutes": None}


def test_a_file_in_the_place_of_a_run_is_one_sentence(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(BadInput, match="a is a file, where a run has its folder: choose another --name"):
        Run(tmp_path / "a", {}, "cpu")
