"""Every SLS, rendered and compiled by Salt's own loaders, for every kind of host; what must fail, fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rig

REPO = Path(__file__).parents[2]
STRANGER = {"version": "0", "host": "stranger", "member": False, "root": "/opt/mrvpn"}
EVERY_SLS = sorted(
    str(path.relative_to(REPO / "salt")).removesuffix(".sls").removesuffix("/init").replace("/", ".")
    for path in (REPO / "salt" / "mrvpn").rglob("*.sls")
    if path.parent.name != "master"  # the master's own settings: no view is needed for them
)
ONLY_ENTRY = {"mrvpn.country", "mrvpn.routing"}
View = Callable[[str], dict[str, Any]]
MakeCaller = Callable[..., Any]


def states(caller: Any) -> list[str]:
    found = caller.cmd("state.show_highstate")
    assert isinstance(found, dict), found
    return sorted(found)


@pytest.mark.parametrize(
    ("host", "sls"),
    [
        ("entry", ["guard", "docker", "tunnel", "host", "country", "compose", "routing", "recorded"]),
        ("uk", ["guard", "docker", "tunnel", "host", "compose", "recorded"]),
        ("office", ["guard", "docker", "tunnel", "host", "compose", "recorded"]),
    ],
)
def test_top_gives_a_host_what_its_view_has(view: View, make_caller: MakeCaller, host: str, sls: list[str]) -> None:
    top = make_caller(host, view(host)).cmd("state.show_top")
    assert top == {"base": [f"mrvpn.{name}" for name in sls]}


@pytest.mark.parametrize("host", ["entry", "uk", "office"])
def test_every_sls_compiles(view: View, make_caller: MakeCaller, host: str) -> None:
    caller = make_caller(host, view(host))
    for sls in EVERY_SLS:
        if sls in ONLY_ENTRY and host != "entry":
            continue
        low = caller.cmd("state.show_low_sls", sls)
        assert all(isinstance(chunk, dict) for chunk in low), f"{sls}: {low}"
        assert low[0]["fun"] == "guard", f"{sls} does not begin with the guard"
        assert low[0]["failhard"] is True


def test_a_minion_outside_the_description_passes_and_gets_nothing(make_caller: MakeCaller) -> None:
    answer = make_caller("stranger", STRANGER).cmd("state.apply")
    results = rig.by_state(answer)
    assert [result["result"] for result in results.values()] == [True]
    assert "not in the description" in next(iter(results.values()))["comment"]


def test_another_hosts_view_is_refused_and_nothing_else_runs(view: View, make_caller: MakeCaller) -> None:
    answer = make_caller("uk", view("office")).cmd("state.apply")
    results = rig.by_state(answer)
    assert list(results) == ["mrvpn.guard mrvpn guard"]
    assert results["mrvpn.guard mrvpn guard"]["result"] is False


def test_a_view_of_another_version_is_refused(view: View, make_caller: MakeCaller) -> None:
    it = view("uk")
    del it["lan"], it["notices"]
    caller = make_caller("uk", it)
    answer = caller.cmd("state.single", "mrvpn.guard", it["version"])
    assert "lacks lan, notices" in rig.by_state(answer)[f"mrvpn.guard {it['version']}"]["comment"]


def test_an_empty_pillar_fails_the_apply(make_caller: MakeCaller) -> None:
    """Salt compiles an empty pillar when an ext_pillar cannot load: that must never be applied."""
    answer = make_caller("uk", None).cmd("state.apply")
    assert isinstance(answer, list), answer
    assert "no view in this minion's pillar" in answer[0]


def test_a_far_end_without_a_key_stops_before_anything_is_deployed(view: View, make_caller: MakeCaller) -> None:
    it = view("office")
    it["tunnels"]["wg_office"]["peers"][0]["public_key"] = None
    caller = make_caller("office", it)
    unknown = ["wg_office: entry"]
    low = caller.cmd("state.show_low_sls", "mrvpn.tunnel")
    (far_ends,) = [chunk for chunk in low if chunk["fun"] == "far_ends"]
    assert far_ends["unknown"] == unknown and far_ends["failhard"] is True
    answer = rig.by_state(caller.cmd("state.single", "mrvpn_wireguard.far_ends", "far ends", unknown=unknown))
    result = answer["mrvpn_wireguard.far_ends far ends"]
    assert result["result"] is False
    assert "wg_office: entry" in result["comment"] and "salt-run state.orchestrate orch.keys" in result["comment"]


def test_no_preshared_key_in_rendered_states(view: View, make_caller: MakeCaller) -> None:
    caller = make_caller("entry", view("entry"))
    shown = str(caller.cmd("state.show_lowstate"))
    for tunnel in view("entry")["tunnels"].values():
        for peer in tunnel["peers"]:
            assert peer["preshared_key"] and peer["preshared_key"] not in shown


def test_the_second_root_leads_only_to_what_minions_may_read() -> None:
    """A checkout as file_root would hand pillar/ to every minion; ext/ holds links to code and nothing else."""
    links = {str(path.relative_to(REPO / "ext")) for path in (REPO / "ext").rglob("*") if path.is_symlink()}
    build = {f"mrvpn/build/{name}" for name in (".dockerignore", "image", "ipt_server", "mrvpn")}
    assert links == {"_engines", "_grains", "_modules", "_proxy", "_states", *build}
    for link in links:
        assert (REPO / "ext" / link).exists(), link
        assert (REPO / "ext" / link).resolve().is_relative_to(REPO)
