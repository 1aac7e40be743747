#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Helm chart and the manifests of deploy/: Helm renders them, Kubernetes would take them.

Helm and the validator come from PyPI (tests/adopt/python_tools.py). There is no cluster here:
what is checked is that the manifests are well-formed for several versions of Kubernetes, that
their parts fit each other, and that the programs know the options that they are given.
"""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import python_tools
from python_tools import ROOT

VERSIONS = ("1.28", "1.31", "1.37")
BIN = ROOT / "build/bin"

Manifest = dict[str, Any]

VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "namespaces": {"namespaces": ["team-a", "team-b"]},
    "every namespace": {"namespaces": ["*"]},
    "module": {"module": {"enabled": True}},
    "without CDI": {"plugin": {"cdi": False, "devices": 7, "resource": "example.com/memory"}},
    "broker": {"broker": {"max": 4096, "quota": 1024, "expire": 60, "metricsFolder": "/var/m"}},
    "every node": {
        "nodeSelector": {"upm.dev/enabled": None},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "",
        "imagePullSecrets": [{"name": "pull"}],
    },
    "layout": {"layout": {"enabled": True, "runtimeClass": "keyed"}},
    "threshold": {"plugin": {"labels": True}, "broker": {"startBelowFree": 20}},
    "another kubelet": {"kubeletFolder": "/data/kubelet"},
}


RENDER = python_tools.script("deploy/kubernetes/render")


def documents(text: str) -> list[Manifest]:
    """The manifests in a text."""
    import yaml

    return [document for document in yaml.safe_load_all(text) if document]


def chart(values: dict[str, Any]) -> list[Manifest]:
    """The manifests that the chart gives with these values."""
    return documents(RENDER.render(values))


def daemon_set(manifests: list[Manifest]) -> Manifest:
    """The only one."""
    (found,) = [m for m in manifests if m["kind"] == "DaemonSet"]
    spec: Manifest = found["spec"]["template"]["spec"]
    return spec


def container(spec: Manifest, name: str) -> Manifest:
    """A container of a pod, by its name."""
    (found,) = [c for c in spec["initContainers"] + spec["containers"] if c["name"] == name]
    result: Manifest = found
    return result


def documented_pod() -> Manifest:
    """What people copy from docs/containers.md."""
    page = (ROOT / "docs/containers.md").read_text()
    _, _, rest = page.partition("### Kubernetes\n")
    (pod,) = documents(rest.split("```yaml\n", 1)[1].split("```", 1)[0])
    return pod


class Manifests(unittest.TestCase):
    """What a cluster is given."""

    def validate(self, manifest: Manifest) -> None:
        """Every version takes it, and knows each of its fields."""
        import kubernetes_validate

        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)

    def test_kubernetes_takes_every_variant(self) -> None:
        for name, values in VARIANTS.items():
            with self.subTest(name):
                manifests = chart(values)
                kinds = ["ConfigMap", "DaemonSet", "ServiceAccount"]
                if "layout" in values:
                    kinds.insert(2, "RuntimeClass")
                self.assertEqual(sorted(m["kind"] for m in manifests), kinds)
                for manifest in manifests:
                    self.validate(manifest)

    def test_plain_manifests_are_those_of_the_chart(self) -> None:
        for name, values in RENDER.FILES.items():
            text = (ROOT / "deploy/kubernetes" / name).read_text()
            self.assertEqual(text, RENDER.render(values), "run deploy/kubernetes/render")

    def test_kubernetes_takes_the_files(self) -> None:
        files = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
        self.assertEqual(len(files), 4)
        for file in files:
            for manifest in documents(file.read_text()):
                self.validate(manifest)
        self.validate(documented_pod())

    def test_the_validator_would_say_so(self) -> None:
        import kubernetes_validate

        manifest = documents((ROOT / "deploy/kubernetes/upm.yaml").read_text())[0]
        manifest["spec"]["template"]["spec"]["hostPidd"] = True
        with self.assertRaises(kubernetes_validate.ValidationError):
            self.validate(manifest)

    def test_helm_refuses_values_that_make_no_sense(self) -> None:
        for values in (
            {"plugin": {"devices": 0}},
            {"plugin": {"resource": "share"}},
            {"namespaces": ["Team"]},
            {"namespaces": "team-a"},
            {"broker": {"max": "much"}},
            {"broker": {"startBelowFree": 0}},
            {"layout": {"enabled": True, "runtimeClass": "Keyed"}},
            {"broker": {"metricsFolder": "relative"}},
            {"nodeSelector": {"upm.dev/enabled": True}},
            {"replicas": 3},
        ):
            with (
                self.subTest(str(values)),
                self.assertRaisesRegex(Exception, "schema|specification"),
            ):
                RENDER.render(values)


class Parts(unittest.TestCase):
    """How the parts fit each other."""

    def test_nothing_may_do_anything_in_the_cluster(self) -> None:
        for values in VARIANTS.values():
            manifests = chart(values)
            kinds = {m["kind"] for m in manifests}
            self.assertFalse(kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})
            self.assertIs(daemon_set(manifests)["automountServiceAccountToken"], False)

    def test_only_the_driver_is_privileged(self) -> None:
        spec = daemon_set(chart({"module": {"enabled": True}}))
        for part in spec["initContainers"] + spec["containers"]:
            context = part["securityContext"]
            if part["name"] == "module":
                self.assertTrue(context["privileged"])
                continue
            self.assertNotIn("privileged", context)
            self.assertEqual(context["capabilities"]["drop"], ["ALL"])
            added = context["capabilities"].get("add", [])
            self.assertEqual(added, ["SYS_PTRACE"] if part["name"] == "broker" else [])
            self.assertTrue(context["readOnlyRootFilesystem"])

    def test_paths_that_the_plugin_names_are_those_of_the_node(self) -> None:
        """A container is given what lies on the node by that path."""
        for values in VARIANTS.values():
            spec = daemon_set(chart(values))
            plugin = container(spec, "plugin")
            paths = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
            same = {
                m["mountPath"]
                for m in plugin["volumeMounts"]
                if paths.get(m["name"]) == m["mountPath"]
            }
            options = dict(option.split("=", 1) for option in plugin["args"] if "=" in option)
            for name in ("--hook", "--broker", "--state", "--layout"):
                if name != "--layout" or "layout" in values:
                    self.assertIn(str(Path(options[name]).parent), same, name)
            for name in ("--namespaces", "--pod-resources", "--labels"):
                mounted = {m["mountPath"] for m in plugin["volumeMounts"]}
                if name != "--labels" or values.get("plugin", {}).get("labels"):
                    self.assertIn(str(Path(options[name]).parent), mounted, name)
            self.assertEqual(options.get("--cdi", "/var/run/cdi"), "/var/run/cdi")

    def test_every_mount_has_its_volume(self) -> None:
        for values in VARIANTS.values():
            spec = daemon_set(chart(values))
            volumes = {v["name"] for v in spec["volumes"]}
            parts = spec["initContainers"] + spec["containers"]
            used = {m["name"] for part in parts for m in part.get("volumeMounts", [])}
            self.assertEqual(used, volumes)

    def test_programs_know_their_options(self) -> None:
        for values in VARIANTS.values():
            spec = daemon_set(chart(values))
            for name, program in (("broker", "upmd"), ("plugin", "upm-device-plugin")):
                part = container(spec, name)
                self.assertEqual(part["command"], [f"/usr/bin/{program}"])
                if not (BIN / program).exists():
                    self.skipTest(f"{program} is not built here")
                done = subprocess.run(
                    [BIN / program, "--help"], capture_output=True, text=True, check=True
                )
                known = set(re.findall(r"--[a-z-]+", done.stdout))
                given = {argument.split("=")[0] for argument in part["args"]}
                self.assertLessEqual(given, known)

    def test_broker_and_plugin_have_one_threshold(self) -> None:
        spec = daemon_set(chart(VARIANTS["threshold"]))
        for name in ("broker", "plugin"):
            self.assertIn("--start-below-free=20", container(spec, name)["args"])

    def test_pods_of_the_runtime_class_find_what_their_runtime_needs(self) -> None:
        """The files that the hook's container copies are those that the others name."""
        manifests = chart(VARIANTS["layout"])
        (found,) = [m for m in manifests if m["kind"] == "RuntimeClass"]
        self.assertEqual((found["metadata"]["name"], found["handler"]), ("keyed", "keyed"))
        spec = daemon_set(manifests)
        self.assertEqual(found["scheduling"]["nodeSelector"], spec["nodeSelector"])
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            script = container(spec, "hook")["args"][0]
            for name in re.findall(r"/usr/\S+", script.replace(";", "")):
                (root / name[1:]).parent.mkdir(parents=True, exist_ok=True)
                (root / name[1:]).write_text(name)
            (root / "var/lib/upm").mkdir(parents=True)
            script = script.replace("/usr/", f"{root}/usr/").replace("/var/", f"{root}/var/")
            subprocess.run(["/bin/sh", "-euc", script], check=True)
            modes = {p.name: p.stat().st_mode & 0o777 for p in (root / "var/lib/upm").iterdir()}
        wanted = {"libupm-preload.so": 0o644, "upm-layout": 0o755, "upm-runc": 0o755}
        self.assertEqual(modes, wanted)
        self.assertIn("--layout=/var/lib/upm/upm-layout", container(spec, "plugin")["args"])

    def test_namespaces_become_lines(self) -> None:
        for names in ([], ["*"], ["team-a", "team-b"]):
            (found,) = [m for m in chart({"namespaces": names}) if m["kind"] == "ConfigMap"]
            lines = found["data"]["namespaces"].splitlines()
            self.assertEqual([line for line in lines if not line.startswith("#")], names)

    def test_the_example_asks_for_what_the_plugin_offers(self) -> None:
        example = documents((ROOT / "deploy/kubernetes/example.yaml").read_text())[0]
        (part,) = example["spec"]["template"]["spec"]["containers"]
        plugin = container(daemon_set(chart({})), "plugin")
        (resource,) = [a.split("=")[1] for a in plugin["args"] if a.startswith("--resource=")]
        self.assertEqual(part["resources"]["limits"][resource], 1)

    def test_the_documented_pod_asks_for_it_too(self) -> None:
        (part,) = documented_pod()["spec"]["containers"]
        plugin = container(daemon_set(chart({})), "plugin")
        ((resource, number),) = part["resources"]["limits"].items()
        self.assertIn(f"--resource={resource}", plugin["args"])
        self.assertEqual(number, 1)


if __name__ == "__main__":
    if not python_tools.enter():
        sys.exit(4)
    unittest.main()
