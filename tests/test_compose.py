"""docker-compose.yml and the Dockerfile say nothing that is not so."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from app.settings import Settings
from tests.composed import FILE as COMPOSE
from tests.composed import ROOT, SERVICES

DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_the_file_follows_the_compose_specification() -> None:
    check = Path(sys.executable).parent / "check-jsonschema"
    command: list[str | Path] = [
        check,
        "--builtin-schema",
        "vendor.compose-spec",
        ROOT / "docker-compose.yml",
    ]
    file = ROOT / "docker-compose.yml"
    said = subprocess.run([*command, file], capture_output=True, check=False, text=True)
    assert said.returncode == 0, said.stdout


def test_everything_that_is_waited_for_exists_and_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for awaited, how in service.get("depends_on", {}).items():
            assert awaited in SERVICES, f"{name} waits for {awaited}"
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[awaited]["healthcheck"], f"{awaited} has no health check"


def test_every_setting_that_is_given_exists() -> None:
    known = {f"STILLHOUSE_{field.upper()}" for field in Settings.model_fields}
    for service in OURS.values():
        given = {name for name in service["environment"] if name.startswith("STILLHOUSE_")}
        assert given <= known
        assert {"STILLHOUSE_DATABASE_URL", "STILLHOUSE_BLOBS_URL", "STILLHOUSE_QUEUE_URL"} <= given


def test_the_given_settings_are_valid() -> None:
    for service in OURS.values():
        values = service["environment"] | {"STILLHOUSE_BOOTSTRAP_KEY": "sh_first_secret"}
        with_prefix = {key: value for key, value in values.items() if key.startswith("STILLHOUSE_")}
        Settings.model_validate_strings(
            {
                key.removeprefix("STILLHOUSE_").lower(): value
                for key, value in with_prefix.items()
                if key != "STILLHOUSE_ACCELERATORS"
            }
        )


def test_our_own_processes_are_confined_watched_and_given_time() -> None:
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["stop_grace_period"] == "40s", name  # more than GOODBYE_S and the requests before it
    for name in ("worker", "worker-gpu"):
        port = SERVICES[name]["environment"]["STILLHOUSE_METRICS_PORT"]
        assert f":{port}/healthz" in SERVICES[name]["healthcheck"]["test"][-1]
        assert SERVICES[name]["expose"] == [port]
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE) == ["stillhouse", "stillhouse"]
    assert all(service["logging"]["options"]["max-size"] for service in SERVICES.values())


def test_the_api_asks_for_its_first_key() -> None:
    key = SERVICES["api"]["environment"]["STILLHOUSE_BOOTSTRAP_KEY"]
    assert key.startswith("${STILLHOUSE_BOOTSTRAP_KEY:?")


def test_every_image_is_built_from_a_stage_that_exists() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert {service["build"]["target"] for service in OURS.values()} <= stages
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert {name for service in OURS.values() for name in service["build"].get("args", {})} <= arguments


def test_every_command_names_a_module_that_exists() -> None:
    modules = {*_modules()}
    assert {"app", "app.db.migrate", "worker.celery"} == modules
    for module in modules:
        assert importlib.util.find_spec(module)


def test_every_volume_that_is_mounted_is_declared_and_the_other_way_round() -> None:
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert mounted == set(COMPOSE["volumes"])


def test_only_what_the_images_need_is_sent_to_the_builder() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!\. )(.*) \./$", DOCKERFILE, re.MULTILINE)
    assert {*" ".join(copied).split()} <= {*sent}
    assert all((ROOT / name).exists() for name in sent)


def _modules() -> Iterator[str]:
    """What follows -m or --app in the commands of the Dockerfile and of the compose file."""
    commands = [service.get("command", []) for service in OURS.values()]
    commands += [
        re.findall(r'"([^"]+)"', line) for line in re.findall(r"^CMD \[.*", DOCKERFILE, re.MULTILINE)
    ]
    for command in commands:
        for flag, value in pairwise(command):
            if flag in ("-m", "--app"):
                yield value
