"""What people do in the Prefect UI: fill the form, watch, look at what came out, cancel."""

import re

import psutil
import pytest
from flows_command import SHORT
from playwright.sync_api import Page, expect
from prefect_service import Served, wait_for

FORM = {
    "assignments": [f"{name}={value}" for name, value in SHORT.items() if name != "data.num_tokens"],
    "data": {"num_tokens": 40_000},
}
ENDLESS = FORM | {"assignments": [*FORM["assignments"], "convert.base.num_steps=5000"]}


def open_form(page: Page, service: Served, flow: str) -> None:
    """Opens a deployment and its form, filled for a run of a minute."""
    deployment = service.deployment(flow)
    parameters = deployment["parameters"] | {"overrides": FORM}
    service.request("PATCH", f"/deployments/{deployment['id']}", json={"parameters": parameters})
    page.goto(f"{service.url}/v2/deployments/deployment/{deployment['id']}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_text("Which of the paper's runs")).to_be_visible()


def newest_run(service: Served, flow: str) -> str:
    """Returns the id of the run that was just made of a deployment."""
    wanted = {"id": {"any_": [service.deployment(flow)["id"]]}}
    found = wait_for(lambda: service.post("/flow_runs/filter", deployments=wanted, sort="ID_DESC"), 60)
    return max(found, key=lambda run: run["created"])["id"]


@pytest.mark.browser
def test_a_run_from_the_form_to_its_artifacts(page, service, shot):
    open_form(page, service, "prepare")
    page.get_by_label("Num Tokens (Optional)").fill("42000")
    shot("form")
    page.get_by_role("button", name="Submit").click()
    expect(page).to_have_url(re.compile("tab=Runs"))
    run = newest_run(service, "prepare")
    page.goto(f"{service.url}/v2/runs/flow-run/{run}")
    ended = service.wait(run, 900)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    assert ended["name"] == "prepare-tiny-dry-run"
    assert ended["parameters"]["overrides"]["data"] == {"num_tokens": 42_000}
    expect(page.get_by_text("Completed").first).to_be_visible()
    shot("completed")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("prepare-report").first.click()
    plot = page.get_by_role("img", name="mixture.png")
    expect(plot).to_be_visible()
    assert plot.evaluate("image => image.naturalWidth") > 100, "the plot is there, not a broken image"
    shot("report")


@pytest.mark.browser
def test_a_value_out_of_bounds_is_refused_with_its_reason(page, service, shot):
    open_form(page, service, "pretrain")
    before = service.post("/flow_runs/count", flow_runs={})
    page.get_by_label("Num Steps (Optional)").first.fill("0")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("0 is less than or equal to the minimum of 0").first).to_be_visible()
    shot("refused")
    assert service.post("/flow_runs/count", flow_runs={}) == before


@pytest.mark.browser
def test_a_cancelled_training_leaves_no_process(page, service, shot):
    prepared = service.start("prepare", overrides=FORM)
    assert service.wait(prepared, 900)["state_type"] == "COMPLETED"
    idle = service.processes()
    run = service.start("convert", overrides=ENDLESS)
    wait_for(lambda: list(service.root.glob("base/*/state/history.jsonl")), 800)
    training = [process for process in service.processes() if process not in idle]
    assert len(training) >= 3, "flow run, agent and rank"
    page.goto(f"{service.url}/v2/runs/flow-run/{run}")
    expect(page.get_by_text("Running").first).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text("base-progress").first).to_be_visible()
    shot("running")
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Cancel").click()
    shot("asked")
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()
    _, alive = psutil.wait_procs(training, timeout=90)
    assert not alive, [process.cmdline() for process in alive]
    assert service.wait(run, 90, "CANCELLED")["state_type"] == "CANCELLED"
    states = {state["type"] for state in service.get(f"/flow_run_states/?flow_run_id={run}")}
    assert "CRASHED" not in states, "a cancelled run is no failure to be told of"
    expect(page.get_by_text("Cancelled").first).to_be_visible()
    shot("cancelled")
