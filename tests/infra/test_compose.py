"""The compose file: it follows the specification, locks its services, and shows no secret."""

import re

import pytest
from check_jsonschema.formats import FormatOptions
from check_jsonschema.regex_variants import RegexImplementation, RegexVariantName
from check_jsonschema.schema_loader import BuiltinSchemaLoader
from documents import INFRA, is_exact, prefect_variables, read_documents

from turbosparse.masking import names_secret

COMPOSE = INFRA / "compose" / "compose.yaml"
REFERENCE = re.compile(r"\$\{([A-Z0-9_]+):\?[^}]+\}")
"""A value that must be given: compose stops without it."""


@pytest.fixture(scope="module")
def compose():
    (document,) = read_documents(COMPOSE)
    return document


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def test_it_follows_the_compose_specification(compose):
    patterns = RegexImplementation(RegexVariantName.default)
    loader = BuiltinSchemaLoader("vendor.compose-spec")
    schema = loader.get_validator(COMPOSE, compose, FormatOptions(regex_impl=patterns), patterns, False)
    assert [error.message for error in schema.iter_errors(compose)] == []
    broken = {**compose, "services": {**compose["services"], "redis": {"imagee": "x"}}}
    assert list(schema.iter_errors(broken)), "or it would pass anything"


def test_images_are_exact_or_built_here(services):
    built = {service["image"] for service in services.values() if "build" in service}
    for name, service in services.items():
        assert is_exact(service["image"]), name
    assert {service["image"] for service in services.values()} >= built
    for service in services.values():
        if "build" in service:
            dockerfile = COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]
            assert f"AS {service['build']['target']}" in dockerfile.read_text()


def test_services_are_locked(services):
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        # A fresh volume belongs to root: one container gives it away, and ends.
        assert service.get("cap_add", []) == (["CHOWN"] if name == "s3-folders" else []), name
        is_root = "user" not in service and service["image"] != services["worker"]["image"]
        assert is_root == (name == "s3-folders"), f"{name}: of ours the image says who it is"
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged") and "pid" not in service, name
        assert service.get("network_mode") in (None, "none"), name
        assert not [volume for volume in service.get("volumes", []) if volume.startswith(("/", "."))], name


def test_only_the_pages_are_published_and_only_to_this_machine(services):
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"server": ["127.0.0.1:4200:4200"]}


def test_runs_reach_no_database(compose, services):
    networks = {name: set(service.get("networks", [])) for name, service in services.items()}
    assert not networks["worker"] & networks["postgres"]
    assert not networks["worker"] & networks["redis"]
    assert networks["worker"] & networks["server"] and networks["worker"] & networks["s3"]
    assert not networks["server"] & networks["s3"]
    internal = {name for name, network in compose["networks"].items() if network.get("internal")}
    assert networks["postgres"] | networks["redis"] | networks["s3"] <= internal


def test_secrets_are_asked_for_and_never_written(services):
    asked = set()
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            asked |= set(REFERENCE.findall(value))
            is_harmless = value in ("redis", "6379", "0")
            if names_secret(variable) and not is_harmless:
                assert REFERENCE.search(value), f"{name}: {variable}"
    example = dict(
        line.split("=", 1)
        for line in (INFRA / "compose" / "env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert asked == set(example), "each is explained, and none is left over"
    assert not any(example.values())
    assert ".env" in (INFRA.parent / ".gitignore").read_text().splitlines()


def test_the_server_asks_for_its_password_and_everyone_has_it(services):
    for name in ("server", "services"):
        assert "PREFECT_SERVER_API_AUTH_STRING" in services[name]["environment"]
    for name in ("deploy", "worker"):
        assert "PREFECT_API_AUTH_STRING" in services[name]["environment"]
        assert "PREFECT_API_DATABASE_CONNECTION_URL" not in services[name]["environment"]


def test_prefect_knows_every_setting(services):
    given = {
        name
        for service in services.values()
        for name in service.get("environment", {})
        if name[:8] == "PREFECT_"
    }
    assert given - prefect_variables() == set()


def test_background_services_run_apart_on_one_migrated_database(services):
    assert "--no-services" in services["server"]["command"]
    assert services["services"]["command"] == ["prefect", "server", "services", "start"]
    for name in ("server", "services"):
        assert services[name]["environment"]["PREFECT_API_DATABASE_MIGRATE_ON_START"] == "false"
        migrated = services[name]["depends_on"]["migrate"]["condition"]
        assert migrated == "service_completed_successfully"
        assert services[name]["environment"]["PREFECT_SERVER_DOCKET_URL"].startswith("redis://")


def test_the_server_unpacks_its_pages_where_it_may_write(services):
    """By default that is among its own code, which belongs to root."""
    pages = services["server"]["environment"]["PREFECT_SERVER_UI_STATIC_DIRECTORY"]
    assert pages.startswith("/tmp/") and services["server"]["user"] != "0:0"


def test_what_is_waited_for_has_a_health_check(services):
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "no", f"{name} waits for {other}"


def test_the_worker_may_open_its_root_and_nothing_else_of_its_kind(services):
    environment = services["worker"]["environment"]
    allowed = environment["TURBOSPARSE_ALLOWED_URIS"].split()
    assert any(environment["TURBOSPARSE_ROOT"].startswith(f"{prefix}/") for prefix in allowed)
    bucket = environment["TURBOSPARSE_ROOT"].split("/")[2]
    assert f"/data/buckets/{bucket}" in " ".join(services["s3-folders"]["entrypoint"])
