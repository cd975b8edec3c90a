"""prefect.yaml: every flow in both environments, with parameters and forms that fit it."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from turbosparse.config import PRESET_NAMES

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
STAGES = ("prepare", "convert", "pretrain", "finetune", "evaluate", "export")
FLOWS = (*STAGES, "pipeline", "retrain")


def flow(name: str):
    return getattr(import_module(f"flows.{name}"), name)


def test_every_flow_is_deployed_in_both_environments():
    found = {(deployment["entrypoint"], deployment["name"]) for deployment in DEPLOYMENTS}
    assert found == {(f"flows/{name}.py:{name}", place) for name in FLOWS for place in ("local", "gpu")}
    for deployment in DEPLOYMENTS:
        assert deployment["work_pool"]["name"] == deployment["name"] in deployment["tags"]
        assert deployment["description"].endswith(".")
        assert deployment["pull"]


def test_a_second_retraining_is_cancelled_and_others_wait():
    strategies = {
        (deployment["entrypoint"].rpartition(":")[2], deployment["concurrency_limit"]["collision_strategy"])
        for deployment in DEPLOYMENTS
    }
    assert strategies == {(name, "ENQUEUE") for name in FLOWS[:-1]} | {("retrain", "CANCEL_NEW")}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: f"{one['entrypoint']}-{one['name']}")
def test_a_deployments_parameters_fit_its_flow(deployment):
    name = deployment["entrypoint"].rpartition(":")[2]
    parameters = flow(name).validate_parameters(deployment["parameters"])
    placement = parameters["placement"]
    assert placement.launcher == ("jobset" if deployment["name"] == "gpu" else "local")
    if deployment["name"] == "gpu":
        assert placement.jobset.image == deployment["work_pool"]["job_variables"]["image"]


@pytest.mark.parametrize("name", FLOWS)
def test_every_field_of_a_form_has_help_and_the_preset_is_a_choice(name):
    schema = parameter_schema(flow(name)).model_dump()
    assert schema["properties"]["preset"]["enum"] == list(PRESET_NAMES)
    models = schema["definitions"]
    fields = {("", field): shape for field, shape in schema["properties"].items()}
    for kind, model in models.items():
        fields |= {(kind, field): shape for field, shape in model.get("properties", {}).items()}
    # A field whose help is its model's own refers to that.
    helps = {
        name: shape.get("description") or models[shape["$ref"].rpartition("/")[2]]["description"]
        for name, shape in fields.items()
        if "description" in shape or "$ref" in shape
    }
    assert set(helps) == set(fields)
    assert all(helps.values())


@pytest.mark.parametrize("name", FLOWS)
def test_no_form_asks_for_a_secret(name):
    assert "writeOnly" not in str(parameter_schema(flow(name)).model_dump())


@pytest.mark.parametrize(
    "changed",
    [
        {"preset": "huge"},
        {"overrides": {"pretrain": {"num_steps": 0}}},
        {"placement": {"num_ranks": 0}},
        {"placement": {"access": {"aws_secret_access_key_block": "wJalrXUtnFEMI/K7MDENG"}}},
    ],
    ids=str,
)
def test_what_a_form_gets_out_of_bounds_is_refused(changed):
    with pytest.raises(ParameterTypeError):
        flow("pipeline").validate_parameters({"preset": "tiny", "dry_run": True} | changed)
