import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fwp_rl import agents
from fwp_rl.ablation.grid import expand, load_grid
from fwp_rl.ablation.layout import lay_out
from fwp_rl.ablation.plan import print_plan
from fwp_rl.config import ConfigError
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.atari.scores import SCORES
from fwp_rl.listing import ablation_rows
from fwp_rl.runs.presets import config_to_dict
from fwp_rl.runs.yaml_files import grid_names

RECALL = {"preset": "recall", "axes": {"seed": [1, 2]}}


def cells(**changes):
    return {cell.name: cell for cell in expand(RECALL | changes, source="grid.yaml")}


def test_a_cell_for_each_combination_in_the_order_of_the_file():
    found = cells(axes={"core": ["lstm", "gru"], "env.max_delay": [9, 20], "seed": [1, 2]})
    assert list(found) == [
        f"{core}-max_delay{delay}-s{seed}"
        for core in ("lstm", "gru")
        for delay in (9, 20)
        for seed in (1, 2)
    ]
    config = found["gru-max_delay20-s2"].config
    assert (type(config.core).__name__, config.env.max_delay, config.seed) == ("GRUConfig", 20, 2)
    assert config.learning_rate == agents.load_preset("recall").learning_rate
    assert found["gru-max_delay20-s2"].labels == {
        "core": "gru",
        "env.max_delay": "20",
        "seed": "2",
    }


@pytest.mark.parametrize(
    ("axis", "value", "name"),
    [
        ("core.heads", 2, "heads2"),
        ("learning_rate", 0.001, "learning_rate0.001"),
        ("core.gradient_horizon", None, "gradient_horizonnone"),
        ("video", False, "videoFalse"),
        ("core", "lstm", "lstm"),
        # a minus: as folders of earlier ablations are called
        ("learning_rate", 1e-05, "1e-05"),
        ("core.bias", -1, "1"),
    ],
)
def test_the_names_of_run_directories_stay(axis, value, name):
    laid = lay_out(RECALL | {"axes": {axis: [value], "seed": [1]}}, source="grid.yaml")
    assert [cell.name for cell in laid] == [f"{name}-s1"]


def test_a_negative_number_is_another_cell():
    laid = lay_out(RECALL | {"axes": {"a": [-1, 1], "b": [-1, 1, 2]}}, source="grid.yaml")
    assert len({cell.name for cell in laid}) == 6


def test_overrides_lie_over_the_preset_and_axes_over_them():
    found = cells(
        overrides={"total_steps": 500, "env": {"num_cues": 6}, "core": {"heads": 4}},
        axes={
            "core": {
                "same": {"core": "delta-net"},
                "large": {"core": {"hidden_size": 128}, "total_steps": 700},
                "other": {"core": "lstm"},
            }
        },
    )
    same, large, other = (found[name].config for name in ("same", "large", "other"))
    assert (same.total_steps, large.total_steps) == (500, 700)
    assert same.env.num_cues == 6
    assert (same.core.heads, same.core.hidden_size, large.core.hidden_size) == (4, 64, 128)
    # a section with another name starts from its own defaults, as core:lstm does
    assert other.core == agents.config_from_dict({"agent": "ppo", "core": "lstm"}, source="x").core


def test_presets_can_be_an_axis():
    found = cells(axes={"preset": ["recall", "minigrid_memory"], "core": ["gru"]})
    assert found["minigrid_memory-gru"].config.env.spec().name == "minigrid/MemoryS9-v0"
    assert found["recall-gru"].config.env.spec().name == "recall"


def test_none_is_a_value():
    found = cells(axes={"core.gradient_horizon": [1, None]})
    assert [cell.config.core.gradient_horizon for cell in found.values()] == [1, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": {}}, r"grid\.yaml: axis: there is no such key\. Did you mean 'axes'"),
        ({"axes": {}}, r"grid\.yaml: axes: got \{\}, expected a mapping"),
        ({"axes": {"seed": []}}, r"axes\.seed: got \[\], expected a list"),
        ({"axes": {"seed": 3}}, r"axes\.seed: got 3"),
        ({"axes": {"seed": [1, 1]}}, "two cells have the name s1"),
        ({"axes": {"a": {"x": 3}}}, r"axes\.a\.x: got 3, expected a mapping"),
        ({"axes": {"core": ["lstmm"]}}, r"cell lstmm: core.name: .*Did you mean 'lstm'"),
        ({"axes": {"sed": [1]}}, r"cell sed1: sed: there is no such field\. Did you mean 'seed'"),
        ({"overrides": {"env": {"max_dela": 3}}}, r"env\.max_dela: .*Did you mean 'max_delay'"),
        ({"overrides": {"learning_rate": -1}}, r"cell s1: learning_rate: got -1"),
        ({"overrides": {"run_dir": "x"}}, "run_dir: is the runner's"),
        ({"preset": "recal"}, "unknown preset 'recal'. Did you mean 'recall'"),
        ({"preset": None}, "preset: is missing"),
        ({"preset": ["recall"]}, r"preset: got \['recall'\], expected a name"),
        ({"preset": {"a": 1}}, "preset: got"),
        ({"axes": {"seed": list(range(2000)), "num_envs": list(range(1, 2000))}}, "3998000 cells"),
        ({"axes": {f"core.{x}": list(range(99)) for x in range(40)}}, "make <about .* cells"),
        ({"axes": {"core": {"x" * 300: {}}}}, "a cell would be called 'xxx"),
        ({"axes": {"core.layers": [1001]}}, "core.layers: got 1001, expected 1 to 1000"),
        ({"overrides": {"core": [["x"] * 10_000] * 10_000}}, "core.name: unknown core"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(changes, message):
    with pytest.raises(ConfigError, match=message):
        cells(**changes)


def test_a_network_beyond_all_memory_is_told_before_anything_starts(tmp_path):
    path = tmp_path / "grid.yaml"
    for size, cells in ((10**15, "cell s1: its network cannot be built"), (10**6, None)):
        core = {"name": "lstm", "hidden_size": size}
        path.write_text(yaml.safe_dump(RECALL | {"overrides": {"core": core}}))
        if cells is None:
            assert len(load_grid(path).cells) == 2, "its shapes are possible"
        else:
            with pytest.raises(ConfigError, match=cells):
                load_grid(path)


def test_a_network_that_cannot_read_its_task_is_told_before_anything_starts(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(RECALL | {"overrides": {"encoder": "nature_cnn"}}))
    with pytest.raises(ConfigError, match=r"grid\.yaml: cell s1: "):
        load_grid(path)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'cores_quick'"):
        load_grid("cores_quik")


def test_every_cell_of_every_shipped_grid_is_valid():
    names = grid_names()
    assert set(names) >= {
        "cores_quick",
        "cores_atari5",
        "cores_atari57",
        "memory_minigrid",
        "gradient_horizon",
        "feature_maps",
        "flicker",
        "speed_levers",
    }
    grids = {name: load_grid(name) for name in names}
    listed = {name: (cells, steps) for name, _, cells, steps in ablation_rows()}
    assert listed == {
        name: (len(grid.cells), sum(cell.config.total_steps for cell in grid.cells))
        for name, grid in grids.items()
    }
    for name, grid in grids.items():
        # where small tasks have more seeds than large ones, size and seed are one axis
        assert {"seed", "run"} & grid.cells[0].labels.keys(), name
    games = {cell.config.env.game for cell in grids["cores_atari57"].cells}
    assert games == set(SCORES)
    games = {cell.config.env.game for cell in grids["cores_atari5"].cells}
    assert games == {"BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert"}
    horizons = {cell.config.core.gradient_horizon for cell in grids["gradient_horizon"].cells}
    assert horizons == {1, 10, None}


def test_a_protocol_laid_over_a_runs_config_settles_its_own_rules(tmp_path):
    """As on the command line. The file spells out the rules of the run's protocol."""
    classic = agents.load_preset("ppo_atari")
    own = replace(classic, env=replace(classic.env, frame_skip=2))
    for name, config in {"run": classic, "own": own}.items():
        stored = config_to_dict(config)
        assert stored["env"]["sticky_actions"] == 0
        del stored["run_dir"]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(stored))
    protocols = {"env.protocol": ["classic", "machado"]}
    for preset, wanted in (("ppo_atari", classic), (str(tmp_path / "run.yaml"), classic)):
        found = expand({"preset": preset, "axes": protocols}, source="x")
        machado = replace(classic.env, protocol="machado")
        assert [cell.config.env for cell in found] == [wanted.env, machado]
    found = expand({"preset": str(tmp_path / "own.yaml"), "axes": protocols}, source="x")
    assert [cell.config.env.changed_rules for cell in found] == [{"frame_skip": 2}] * 2, "its own"


def test_a_run_of_ones_own_is_a_preset_like_any_other(tmp_path):
    """Its config.yaml as it stands, under whatever is laid over it."""
    classic = agents.load_preset("ppo_atari")
    run = replace(classic, run_dir="runs/mine")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_to_dict(run)))
    by_hand = {"agent": "ppo", "env": {"game": "Pong", "sticky_actions": 0.0}}  # atari is not named
    (tmp_path / "by_hand.yaml").write_text(yaml.safe_dump(by_hand))
    machado = {"env": {"protocol": "machado"}}
    named = {"env": {"name": "ATARI", "protocol": "machado"}}
    for name in ("config.yaml", "by_hand.yaml"):
        preset = {"preset": str(tmp_path / name)}
        (tmp_path / "grid.yaml").write_text(
            yaml.safe_dump(preset | {"overrides": machado, "axes": {"seed": [1]}})
        )
        grids = [
            load_grid(tmp_path / "grid.yaml").cells,
            expand(preset | {"axes": {"task": {"m": machado}}}, source="x"),
            expand(preset | {"axes": {"env.protocol": ["machado"]}}, source="x"),
            expand({"axes": {"preset": [preset["preset"]], "task": {"m": machado}}}, source="x"),
            expand(preset | {"axes": {"task": {"m": named}}}, source="x"),
        ]
        game = "Breakout" if name == "config.yaml" else "Pong"
        for (cell,) in grids:
            assert cell.config.env == AtariConfig(game=game, protocol="machado")
            assert cell.config.env.rules.sticky_actions == 0.25
            assert cell.config.run_dir is None
    own = {"env": {"protocol": "machado", "sticky_actions": 0.0}}
    (cell,) = expand(preset | {"axes": {"task": {"own": own}}}, source="x")
    assert cell.config.env.changed_rules == {"sticky_actions": 0.0}, "said beside the protocol"


def test_words_for_no_value(tmp_path):
    found = cells(axes={"core.gradient_horizon": [1, "none"], "reward_clip": ["None", 2]})
    assert [(c.config.core.gradient_horizon, c.config.reward_clip) for c in found.values()] == [
        (1, None), (1, 2.0), (None, None), (None, 2.0),
    ]  # fmt: skip


def test_the_plan_counts_frames_where_a_step_plays_several(tmp_path):
    axes = {"env.protocol": ["classic", "machado_2018"]}
    grid = {"preset": "ppo_atari", "overrides": {"total_steps": 1000}, "axes": axes}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(RECALL | {"overrides": {"total_steps": 10}}))
    for name, words in (("grid", "2,000 steps = 9,000 frames"), ("toy", "20 steps; ")):
        said = io.StringIO()
        console = Console(file=said, width=200)
        loaded = load_grid(tmp_path / f"{name}.yaml")
        print_plan(loaded, tmp_path / "out", jobs=1, threads=1, console=console)
        assert words in said.getvalue()


def names(axes, **changes):
    data = {"preset": "recall", "axes": axes, **changes}
    return [cell.name for cell in lay_out(data, source="grid.yaml")]


def test_the_grid_of_the_page_is_what_the_page_says():
    page = (Path(__file__).parents[2] / "docs" / "ablations.md").read_text()
    text = re.search(r"```yaml\n(preset.*?)```", page, re.DOTALL)[1]
    found = expand(yaml.safe_load(text), source="page")
    assert len(found) == int(re.search(r"two excluded, (\d+)\.", page)[1])
    controls = [cell for cell in found if "feedforward" in cell.name]
    assert len(controls) == 8
    assert "feedforward-Catch-s1" in [cell.name for cell in controls]
    assert not any("core.gradient_horizon" in cell.labels for cell in controls)
    horizons = [cell.config.core.gradient_horizon for cell in found if cell not in controls]
    assert horizons.count(1) == horizons.count(None) == 10


@pytest.mark.parametrize("cores", [["lstm", "delta_net"], ["delta_net", "feedforward", "lstm"]])
def test_what_lacks_a_field_has_one_cell_for_all_its_values(cores):
    found = names({"core": cores, "core.heads": [1, 2], "seed": [1, 2]})
    wanted = {"delta_net-heads1-s1", "delta_net-heads1-s2", "delta_net-heads2-s1"}
    wanted |= {"delta_net-heads2-s2"}
    wanted |= {f"{core}-s{seed}" for core in cores if core != "delta_net" for seed in (1, 2)}
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_other_sections_and_agents_lack_fields_too():
    assert names(
        {"env": ["recall", {"name": "classic", "task": "Catch-v0"}], "env.max_delay": [4, 9]}
    ) == ["recall-max_delay4", "recall-max_delay9", "classic"]
    axes = {"preset": ["minigrid_memory", "impala_minigrid_memory"], "clip": [0.1, 0.2]}
    found = names(axes | {"actors.count": [1, 2]})
    assert found == [
        "minigrid_memory-clip0.1",
        "minigrid_memory-clip0.2",
        "impala_minigrid_memory-count1",
        "impala_minigrid_memory-count2",
    ]


def test_a_field_that_nothing_has_is_still_a_mistake():
    for field, hint in (("core.headz", "Did you mean 'heads'"), ("core.window", "core:gtrxl")):
        with pytest.raises(ConfigError, match=hint):
            expand({**RECALL, "axes": {"core": ["delta_net", "gru"], field: [1, 2]}}, source="g")


def test_an_axis_that_a_later_one_undoes_is_refused():
    axes = {"core.heads": [1, 4], "core": ["delta_net", "recurrent_delta_net"]}
    with pytest.raises(ConfigError, match=r"axes\.core\.heads: is undone by .*put core\.heads aft"):
        names(axes)
    assert len(names(dict(reversed(axes.items())))) == 4


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ([{"core": "lstm"}], {"gru-none-1", "gru-none-2", "gru-5-1", "gru-5-2"}),
        ([{"core": "Lstm", "seed": [1, 2]}], {"gru-none-1", "gru-none-2", "gru-5-1", "gru-5-2"}),
        ([{"core": "gru"}, {"horizon": "none"}], {"lstm-5-1", "lstm-5-2"}),
        ([{"horizon": None, "seed": 2}, {"core": ["gru"], "horizon": 5}, {"seed": "1"}],
         {"lstm-5-2"}),
    ],
)  # fmt: skip
def test_what_is_excluded_is_no_cell(exclude, left):
    axes = {
        "core": ["lstm", "gru"],
        "horizon": {"none": {}, "5": {"core": {"gradient_horizon": 5}}},
        "seed": [1, 2],
    }
    laid = lay_out({"preset": "recall", "axes": axes, "exclude": exclude}, source="g")
    assert {"-".join(cell.labels.values()) for cell in laid} == left


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ({"core": "lstm"}, r"exclude: got \{.*expected a list of"),
        (["lstm"], "exclude: got 'lstm', expected"),
        ([{}], r"exclude: got \{\}"),
        ([{"cor": "lstm"}], "exclude: 1: cor: there is no such axis. Did you mean 'core'"),
        ([{"seed": 1}, {"core": "lstmm"}], "exclude: 2: core: got 'lstmm', .*Did you mean 'lstm'"),
        ([{"seed": [1, 3]}], "exclude: 1: seed: got '3', expected values of the axis. Known: 1, 2"),
        ([{"seed": 1}, {"seed": 2}], "exclude: leaves out every cell"),
    ],
)
def test_an_exclusion_that_cannot_be_meant_is_refused(exclude, message):
    with pytest.raises(ConfigError, match=message):
        names({"core": ["lstm", "gru"], "seed": [1, 2]}, exclude=exclude)


def test_one_word_for_no_value_gives_one_cell():
    for word in ("none", "None", "null", None):
        assert names({"reward_clip": [word]}) == ["reward_clipnone"]
    (cell,) = expand({**RECALL, "axes": {"total_steps": ["1e6"]}}, source="g")
    assert cell.config.total_steps == 1_000_000
    with pytest.raises(ConfigError, match=r"total_steps: got 1\.5, expected a whole"):
        expand({**RECALL, "axes": {"total_steps": ["1.5e0"]}}, source="g")
