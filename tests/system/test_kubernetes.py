# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes: kustomize builds it, the schemas and the standard accept it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from system.secrets_made import ROOT, make_secrets

from sidecar.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

OLDEST_KUBERNETES = "1.29"  # the first with native sidecars
LONGEST_UNKNOWN_SECONDS = 60
NODES = ("nats-0.nats", "nats-1.nats", "nats-2.nats")

# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as docs/install.md says, with fresh secrets."""
    directory = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(
        ROOT / "deploy", directory / "deploy", ignore=shutil.ignore_patterns("secrets")
    )
    here = directory / "deploy" / "kubernetes"
    make_secrets(here / "secrets", "nats", *NODES)
    built = subprocess.run(["kubectl", "kustomize", here], check=True, stdout=-1)
    path = directory / "manifest.yaml"
    path.write_bytes(built.stdout)
    return path


@pytest.fixture(scope="module")
def objects(manifest: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(manifest.read_text()))


@pytest.fixture(scope="module")
def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give each pod's specification under the name of what makes it."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in objects
        if "template" in each.get("spec", {})
    }


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, None])
def test_the_schemas_of_kubernetes_accept_it(
    version: str | None, manifest: Path
) -> None:
    wanted = ["--kubernetes-version", version] if version else []
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", *wanted]
    answer = subprocess.run(
        [*command, manifest], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_each_pod_keeps_the_restricted_standard(
    pods: dict[str, dict[str, Any]],
) -> None:
    assert set(pods) == {"nats", "provision", "hermes-server", "hermes-client"}
    faults = [f"{name}: {fault}" for name, pod in pods.items() for fault in _loose(pod)]
    assert faults == []


def test_a_loose_pod_is_found() -> None:
    """A check that accepts everything would prove nothing."""
    pod = {
        "hostNetwork": True,
        "securityContext": {"runAsUser": 0},
        "containers": [
            {
                "name": "one",
                "ports": [{"containerPort": 1, "hostPort": 1}],
                "securityContext": {
                    "privileged": True,
                    "capabilities": {"add": ["SYS_ADMIN"]},
                },
            }
        ],
        "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
    }
    assert len(_loose(pod)) == 10


def test_no_pod_is_told_of_services_or_given_an_account(
    pods: dict[str, dict[str, Any]],
) -> None:
    for pod in pods.values():
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        for container in _containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", ["hermes-server", "hermes-client"])
def test_the_sidecar_is_native_and_outlives_hermes(
    name: str, pods: dict[str, dict[str, Any]]
) -> None:
    pod = pods[name]
    plugins, sidecar = pod["initContainers"]
    assert "restartPolicy" not in plugins
    assert sidecar["restartPolicy"] == "Always"
    paths = {
        probe: sidecar[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "liveness", "readiness")
    }
    assert paths == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert pod["terminationGracePeriodSeconds"] > LONGEST_UNKNOWN_SECONDS


def test_every_name_that_is_used_is_defined(
    objects: list[dict[str, Any]], pods: dict[str, dict[str, Any]]
) -> None:
    defined = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for pod in pods.values():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in defined
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in defined
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in defined
        for container in _containers(pod):
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts <= set(volumes) | {"data"}  # a claim's template


def test_the_sidecars_are_given_settings_that_exist(
    pods: dict[str, dict[str, Any]],
) -> None:
    known = {f"SIDECAR_{name.upper()}" for name in Settings.model_fields}
    given = {
        variable["name"]
        for pod in pods.values()
        for container in _containers(pod)
        for variable in container.get("env", [])
    }
    assert {name for name in given if name.startswith("SIDECAR_")} <= known


def test_each_plugin_is_mounted_where_hermes_looks_for_it(
    pods: dict[str, dict[str, Any]],
) -> None:
    for name, family in (("server", "producers"), ("client", "consumers")):
        (hermes,) = pods[f"hermes-{name}"]["containers"]
        (mount,) = (m for m in hermes["volumeMounts"] if m["name"] == "plugins")
        folder = f"messagebus_{family}/nats_sidecar"
        assert mount["subPath"] == folder
        assert mount["mountPath"] == f"/opt/hermes/plugins/{folder}"


Where = tuple[str, dict[str, str] | str]
KUBE_DNS: Where = ("kube-system", {"k8s-app": "kube-dns"})
OPENSHIFT_DNS: Where = ("openshift-dns", {})
NAME_SERVERS: dict[str, tuple[Where, int]] = {
    "CoreDNS": (KUBE_DNS, 53),
    "NodeLocal DNSCache": (("", "169.254.20.10"), 53),
    "Cloud DNS of GKE": (("", "169.254.169.254"), 53),
    "OpenShift": (OPENSHIFT_DNS, 5353),
}
PODS = ("nats", "provision", "hermes-server", "hermes-client")
SMTP: Where = ("", "192.0.2.25")
ELSEWHERE: Where = ("other", {"app": "other"})


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
@pytest.mark.parametrize("name", NAME_SERVERS)
@pytest.mark.parametrize("pod", PODS)
def test_each_pod_reaches_the_name_server(
    pod: str, name: str, protocol: str, objects: list[dict[str, Any]]
) -> None:
    where, port = NAME_SERVERS[name]
    assert _may_reach(objects, pod, where, port, protocol)
    assert not _may_reach(objects, pod, ELSEWHERE, port, protocol)


def test_who_may_reach_what_else(objects: list[dict[str, Any]]) -> None:
    nats: Where = ("hermes", {"app.kubernetes.io/name": "nats"})
    may = {
        pod: {
            what
            for what, where, port in (
                ("client port", nats, 4222),
                ("cluster port", nats, 6222),
                ("mail", SMTP, 25),
                ("web", SMTP, 443),
                ("elsewhere", ELSEWHERE, 4222),
            )
            if _may_reach(objects, pod, where, port, "TCP")
        }
        for pod in PODS
    }
    assert may == {
        "nats": {"cluster port"},
        "provision": {"client port"},
        "hermes-server": {"client port", "mail"},
        "hermes-client": {"client port", "mail"},
    }


def test_provision_waits_for_nats_however_late(objects: list[dict[str, Any]]) -> None:
    (job,) = (each for each in objects if each["kind"] == "Job")
    assert job["spec"]["backoffLimit"] == 2**31 - 1


def _may_reach(
    objects: list[dict[str, Any]], name: str, where: Where, port: int, protocol: str
) -> bool:
    """Evaluate the policies as the API says: without one that selects, all is open."""
    labels = next(
        each["spec"]["template"]["metadata"]["labels"]
        for each in objects
        if each["metadata"]["name"] == name and "template" in each.get("spec", {})
    )
    policies = [
        each["spec"]
        for each in objects
        if each["kind"] == "NetworkPolicy"
        and "Egress" in each["spec"]["policyTypes"]
        and _selects(each["spec"]["podSelector"], labels)
    ]
    return not policies or any(
        any(_is_peer(peer, where) for peer in rule.get("to", [{}]))
        and {"port": port, "protocol": protocol} in rule["ports"]
        for policy in policies
        for rule in policy.get("egress", [])
    )


def _is_peer(peer: dict[str, Any], where: Where) -> bool:
    """Tell whether a rule's peer is a pod in a namespace, or an address of no pod."""
    namespace, what = where
    if isinstance(what, str):
        block = peer.get("ipBlock", {} if peer else {"cidr": "0.0.0.0/0"}).get("cidr")
        return block is not None and ip_address(what) in ip_network(block)
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        its = {"kubernetes.io/metadata.name": namespace}
        return _selects(peer["namespaceSelector"], its)
    return not peer or (namespace == "hermes" and _selects(peer["podSelector"], what))


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def _loose(pod: dict[str, Any]) -> list[str]:
    """Say how a pod breaks the restricted Pod Security Standard."""
    faults = [name for name in _HOST if pod.get(name)]
    for volume in pod.get("volumes", []):
        faults += [
            f"volume of type {kind}" for kind in set(volume) - {"name"} - _VOLUMES
        ]
    for container in _containers(pod):
        own = container.get("securityContext", {})
        context = pod.get("securityContext", {}) | own
        capabilities = own.get("capabilities", {})
        profile = context.get("seccompProfile", {}).get("type")
        checks = {
            "privileged": own.get("privileged", False),
            "may escalate": own.get("allowPrivilegeEscalation") is not False,
            "may be root": context.get("runAsNonRoot") is not True,
            "is root": context.get("runAsUser") == 0,
            "keeps capabilities": "ALL" not in capabilities.get("drop", []),
            "adds capabilities": bool(
                set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}
            ),
            "has no seccomp profile": profile not in ("RuntimeDefault", "Localhost"),
            "takes a host port": any(
                port.get("hostPort") for port in container.get("ports", [])
            ),
            "has an own proc mount": own.get("procMount", "Default") != "Default",
        }
        faults += [f"{container['name']} {what}" for what, bad in checks.items() if bad]
    return faults
