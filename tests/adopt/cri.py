# SPDX-License-Identifier: MIT
"""A client of the kubelet's interface for container runtimes (CRI), as far as tests need it.

Needs python3-grpcio, python3-protobuf and protoc (tools/dev/deps engines).
"""

import hashlib
import importlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# What a container of the image runs if nothing else is said, as a pod's first container does.
PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


def missing() -> str:
    """What it needs and there is not; empty if all is there."""
    try:
        importlib.import_module("grpc")
        importlib.import_module("google.protobuf")
        subprocess.run(["protoc", "--version"], check=True, stdout=subprocess.DEVNULL)
    except (ImportError, OSError) as error:
        return f"{error}: tools/dev/deps engines"
    return ""


class Client:
    """Calls to a runtime that serves at a socket."""

    def __init__(self, socket: Path, scratch: Path) -> None:
        """`scratch`: a folder for what protoc makes."""
        grpc = importlib.import_module("grpc")
        subprocess.run(
            ["protoc", f"--proto_path={HERE}", f"--python_out={scratch}", "cri.proto"], check=True
        )
        sys.path.insert(0, str(scratch))
        try:
            self.wire: Any = importlib.import_module("cri_pb2")
        finally:
            sys.path.remove(str(scratch))
        self.channel = grpc.insecure_channel(f"unix:{socket}")

    def close(self) -> None:
        """Ends the connection."""
        self.channel.close()

    def call(self, name: str, request: Any, answer: str = "Empty", service: str = "Runtime") -> Any:
        """One call, with a minute's patience. Raises grpc.RpcError if it is refused."""
        method = self.channel.unary_unary(
            f"/runtime.v1.{service}Service/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(self.wire, answer).FromString,
        )
        return method(request, timeout=60)

    def has_image(self, name: str) -> bool:
        """The runtime knows an image of that name."""
        request = self.wire.ImageStatusRequest(image={"image": name})
        answer = self.call("ImageStatus", request, "ImageStatusResponse", "Image")
        return bool(answer.HasField("image"))

    def run_sandbox(self, config: Any, handler: str = "") -> str:
        """A pod with no container yet; its name in the runtime."""
        request = self.wire.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return str(self.call("RunPodSandbox", request, "RunPodSandboxResponse").pod_sandbox_id)

    def remove_sandbox(self, name: str) -> None:
        """With all of its containers."""
        for call in ("StopPodSandbox", "RemovePodSandbox"):
            self.call(call, self.wire.RunPodSandboxResponse(pod_sandbox_id=name))

    def start(self, sandbox: str, pod: Any, config: Any) -> str:
        """A container of that pod; its name in the runtime."""
        request = self.wire.CreateContainerRequest(
            pod_sandbox_id=sandbox, config=config, sandbox_config=pod
        )
        made = self.call("CreateContainer", request, "CreateContainerResponse")
        self.call("StartContainer", made)
        return str(made.container_id)

    def pid(self, container: str) -> int:
        """Of its first process."""
        request = self.wire.ContainerStatusRequest(container_id=container, verbose=True)
        answer = self.call("ContainerStatus", request, "ContainerStatusResponse")
        return int(json.loads(answer.info["info"])["pid"])


def make_image(archive: Path, name: str, scratch: Path) -> None:
    """An image as `docker save` writes it, with a static program and folders to mount into."""
    program = scratch / "pause"
    subprocess.run(
        ["gcc", "-O2", "-static", "-x", "c", "-", "-o", program],
        input=PAUSE.encode(), check=True,
    )  # fmt: skip
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("usr", "etc", "proc", "sys", "dev", "tmp", "run", "data", "opt", "opt/upm"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for folder in ("bin", "lib", "lib64", "sbin"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{folder}"
            tar.addfile(entry)
        entry = tar.gettarinfo(program, "pause")
        entry.uid = entry.gid = 0
        with program.open("rb") as file:
            tar.addfile(entry, file)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for file_name, content in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(file_name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
