"""The cluster's objects: Kubernetes knows them, pods are locked, and everybody may do what they need to."""

import json
import re
import shutil
import subprocess
from uuid import uuid4

import kubernetes_validate
import pytest
import yaml
from documents import KUBERNETES, is_exact, pods_of, prefect_variables, read_documents, render, unlocked

from turbosparse.config import Placement, validate
from turbosparse.masking import names_secret
from turbosparse.train.launch import Program
from turbosparse.train.launch.manifest import build_jobset

VERSION = "1.32"
OVERLAYS = ("prefect", "queue", "turbosparse", "trial")
KUEUE = "kueue.x-k8s.io"


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request):
    return render(KUBERNETES / request.param)


@pytest.fixture(scope="module")
def everything():
    """All objects of a cluster with a database of its own."""
    return [document for name in ("trial", "queue", "turbosparse") for document in render(KUBERNETES / name)]


@pytest.fixture(scope="module")
def jobset():
    """The training's JobSet, as a run with placement.yaml makes it."""
    tree = yaml.safe_load((KUBERNETES / "placement.yaml").read_text())
    place = validate(Placement, tree, "placement.yaml")
    assert place.jobset is not None
    return build_jobset(Program("pretrain", "0123456789abcdef", "{}", "unused"), place, place.jobset, None)


@pytest.fixture(scope="module")
def flow_job():
    """The Job of a flow run, as the worker makes it of work-pool.json."""
    from prefect.client.schemas import FlowRun  # noqa: PLC0415 - seconds
    from prefect.utilities.templating import apply_values  # noqa: PLC0415
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration  # noqa: PLC0415

    template = json.loads((KUBERNETES / "work-pool.json").read_text())
    variables = template["variables"]["properties"].items()
    values = {name: variable["default"] for name, variable in variables if "default" in variable}
    values |= {"name": "a-run", "command": "prefect flow-run execute"}
    applied = KubernetesWorkerJobConfiguration(**apply_values(template["job_configuration"], values))
    applied.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="a-run"))
    manifest = applied.job_manifest
    # Prefect insists on two fields of a Job in its pod, where Kubernetes knows and heeds none.
    for name in ("parallelism", "completions"):
        del manifest["spec"]["template"]["spec"][name]
    return manifest


def named(documents, kind, name):
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)


def names_of(documents):
    """Returns namespace, kind and name of every object."""
    return {(d["metadata"].get("namespace"), d["kind"], d["metadata"]["name"]) for d in documents}


def test_kubernetes_knows_every_field(overlay, flow_job):
    known = [document for document in overlay if KUEUE not in document["apiVersion"]]
    for document in [*known, flow_job]:
        kubernetes_validate.validate(document, VERSION, strict=True)
    broken = flow_job | {"spec": flow_job["spec"] | {"unknown": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kustomize_makes_the_same_of_them(name):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", KUBERNETES / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = list(yaml.safe_load_all(done.stdout))
    ours = render(KUBERNETES / name)
    assert sorted(map(json.dumps, map(_sorted, ours))) == sorted(map(json.dumps, map(_sorted, theirs)))


def _sorted(document):
    return json.loads(json.dumps(document, sort_keys=True))


def test_every_pod_is_locked(everything, jobset, flow_job):
    pods = dict(pods_of([*everything, flow_job | {"metadata": {"name": "flow"}}]))
    for job in jobset["spec"]["replicatedJobs"]:
        pods["JobSet"] = job["template"]["spec"]["template"]
    assert len(pods) >= 9
    assert {name: unlocked(pod["spec"]) for name, pod in pods.items() if unlocked(pod["spec"])} == {}
    labels = [d["metadata"]["labels"] for d in everything if d["kind"] == "Namespace"]
    assert {one["pod-security.kubernetes.io/enforce"] for one in labels} == {"restricted"}


def test_only_who_asks_the_api_has_an_account_of_it(everything, jobset, flow_job):
    for name, pod in pods_of(everything):
        has_token = pod["spec"].get("automountServiceAccountToken", True)
        assert has_token == (name == "Deployment/worker"), name
    (training,) = jobset["spec"]["replicatedJobs"]
    assert training["template"]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert flow_job["spec"]["template"]["spec"]["serviceAccountName"] == "flow"


def test_images_are_exact(everything, jobset, flow_job):
    (training,) = jobset["spec"]["replicatedJobs"]
    templates = [pod for _, pod in pods_of(everything)]
    templates += [training["template"]["spec"]["template"], flow_job["spec"]["template"]]
    for pod in templates:
        assert all(is_exact(container["image"]) for container in pod["spec"]["containers"])


def test_secrets_are_named_and_never_written(everything):
    assert not [document for document in everything if document["kind"] == "Secret"]
    for name, pod in pods_of(everything):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                is_name = variable["name"].endswith(("_SECRET_NAME", "_SECRET_KEY"))
                if names_secret(variable["name"]) and not is_name:
                    assert "secretKeyRef" in variable["valueFrom"], (name, variable["name"])
    for document in everything:
        if document["kind"] == "ConfigMap":
            assert not [key for key in document["data"] if names_secret(key)]


def test_prefect_knows_every_setting(everything):
    given = {key for d in everything if d["kind"] == "ConfigMap" for key in d["data"]}
    for _, pod in pods_of(everything):
        given |= {
            variable["name"]
            for container in pod["spec"]["containers"]
            for variable in container.get("env", [])
        }
    assert {name for name in given if name.startswith("PREFECT_")} - prefect_variables() == set()


def test_services_and_bindings_lead_to_what_is_there(everything):
    labels = [
        (document["metadata"]["namespace"], document["spec"]["template"]["metadata"]["labels"])
        for document in everything
        if document["kind"] in ("Deployment", "StatefulSet", "Job")
    ]
    for document in everything:
        space = document["metadata"].get("namespace")
        if document["kind"] == "Service":
            wanted = document["spec"]["selector"].items()
            assert [own for there, own in labels if there == space and wanted <= own.items()]
        if document["kind"] == "RoleBinding":
            assert (space, "Role", document["roleRef"]["name"]) in names_of(everything)
            assert (space, "ServiceAccount", document["subjects"][0]["name"]) in names_of(everything)


def test_flows_and_training_use_accounts_settings_and_a_queue_that_are_there(everything, jobset, flow_job):
    flow = flow_job["spec"]["template"]["spec"]
    (training,) = jobset["spec"]["replicatedJobs"]
    used = {
        ("ServiceAccount", flow["serviceAccountName"]),
        ("ServiceAccount", training["template"]["spec"]["template"]["spec"]["serviceAccountName"]),
        ("ConfigMap", flow["containers"][0]["envFrom"][0]["configMapRef"]["name"]),
        ("LocalQueue", jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]),
    }
    assert {("turbosparse", *names) for names in used} <= names_of(everything)


def test_the_queue_has_a_quota_for_what_training_asks_for(everything, jobset):
    local, cluster = named(everything, "LocalQueue", "gpus"), named(everything, "ClusterQueue", "turbosparse")
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    (group,) = cluster["spec"]["resourceGroups"]
    for flavor in group["flavors"]:
        assert named(everything, "ResourceFlavor", flavor["name"])
        assert [one["name"] for one in flavor["resources"]] == group["coveredResources"]
    (training,) = jobset["spec"]["replicatedJobs"]
    asked = training["template"]["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert set(asked) <= set(group["coveredResources"]), "Kueue admits nothing that has no quota"


def test_nobody_may_do_everything(everything):
    assert not [d for d in everything if d["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    for document in everything:
        for rule in document.get("rules", []) if document["kind"] == "Role" else []:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            assert not {"secrets", "roles", "rolebindings", "pods/exec"} & set(rule["resources"])


def test_each_namespace_begins_with_nothing(everything):
    policies = [document for document in everything if document["kind"] == "NetworkPolicy"]
    for space in ("prefect", "turbosparse"):
        here = [policy for policy in policies if policy["metadata"]["namespace"] == space]
        nothing = named(here, "NetworkPolicy", "nothing")["spec"]
        assert nothing["podSelector"] == {} and set(nothing) == {"podSelector", "policyTypes"}
        assert nothing["policyTypes"] == ["Ingress", "Egress"]


def test_no_policy_leads_to_the_nodes_metadata(everything):
    """169.254.169.254 gives a node's credentials to whoever asks."""
    blocks = [
        peer["ipBlock"]
        for document in everything
        if document["kind"] == "NetworkPolicy"
        for rule in document["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    wide = [block for block in blocks if block["cidr"] == "0.0.0.0/0"]
    assert len(wide) >= 3
    assert all("169.254.0.0/16" in block["except"] for block in wide)


def test_training_pods_reach_neither_prefect_nor_kubernetes(everything):
    policies = [document for document in everything if document["kind"] == "NetworkPolicy"]
    training = [p for p in policies if p["metadata"]["namespace"] == "turbosparse"]
    orchestration = named(training, "NetworkPolicy", "orchestration")["spec"]["podSelector"]
    (expression,) = orchestration["matchExpressions"]
    assert expression == {"key": "jobset.sigs.k8s.io/jobset-name", "operator": "DoesNotExist"}
    for policy in training:
        if policy["metadata"]["name"] == "orchestration":
            continue
        for rule in policy["spec"].get("egress", []):
            assert not [port for port in rule.get("ports", []) if port["port"] in (4200, 6443)]


def test_read_only_containers_write_where_something_is_mounted(everything):
    """Prefect's home, and the pages that its server unpacks."""
    for name, pod in pods_of(everything):
        for container in pod["spec"]["containers"]:
            if not container["securityContext"].get("readOnlyRootFilesystem"):
                continue
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            places = [v["value"] for v in container.get("env", []) if v["name"] in ("PREFECT_HOME", "PGDATA")]
            if {"configMapRef": {"name": "prefect-settings"}} in container.get("envFrom", []):
                data = named(everything, "ConfigMap", "prefect-settings")["data"]
                places += [data["PREFECT_HOME"], data["PREFECT_SERVER_UI_STATIC_DIRECTORY"]]
            for place in places:
                assert any(place.startswith(f"{mount}/") for mount in mounts), (name, place)


def test_flows_name_the_password_of_prefect_instead_of_carrying_it(everything, flow_job):
    """The worker would write its own into every Job, where whoever may read Jobs sees it."""
    (container,) = named(everything, "Deployment", "worker")["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_"
    secrets = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
    assert given[f"{prefix}NAME"] in secrets
    assert given[f"{prefix}KEY"] == "PREFECT_API_AUTH_STRING"
    in_flow = flow_job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert "PREFECT_API_AUTH_STRING" not in {variable["name"] for variable in in_flow}


def test_an_evicted_flow_starts_again_and_a_failed_one_does_not(flow_job):
    rules = flow_job["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Ignore" and rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert rules[1]["action"] == "FailJob"
    assert flow_job["spec"]["backoffLimit"] > 0


def test_a_flow_knows_its_own_pod(flow_job):
    """So that its training belongs to its Job, and outlives an eviction (turbosparse.train.launch.jobset)."""
    (container,) = flow_job["spec"]["template"]["spec"]["containers"]
    (own,) = [variable for variable in container["env"] if variable["name"] == "POD_NAME"]
    assert own["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"


def test_the_pool_knows_what_deployments_set():
    variables = json.loads((KUBERNETES / "work-pool.json").read_text())["variables"]["properties"]
    (project,) = read_documents(KUBERNETES.parents[1] / "prefect.yaml")
    pools = [deployment["work_pool"] for deployment in project["deployments"]]
    on_cluster = [pool for pool in pools if pool["name"] == "gpu"]
    assert on_cluster
    for pool in on_cluster:
        assert set(pool.get("job_variables", {})) <= set(variables)


def test_deployments_find_their_settings_in_the_cluster(everything):
    """`{{ $NAME }}` of prefect.yaml is filled in where it is deployed: by the Job `deploy`."""
    text = (KUBERNETES.parents[1] / "prefect.yaml").read_text()
    asked = set(
        re.findall(r"\{\{ \$([A-Z_]+) \}\}", text.partition("gpu: &gpu")[2].partition("concurrency")[0])
    )
    given = named(everything, "ConfigMap", "turbosparse-settings")["data"]
    assert asked and asked <= set(given)
    assert f"image: {given['TURBOSPARSE_IMAGE']}" in (KUBERNETES / "placement.yaml").read_text()
    assert f"root: {given['TURBOSPARSE_ROOT']}" in (KUBERNETES / "placement.yaml").read_text()


def test_the_overlays_are_all_that_there_is():
    for path in KUBERNETES.glob("*/*.yaml"):
        assert path.parent.name in OVERLAYS
        assert read_documents(path)
        listed = read_documents(path.parent / "kustomization.yaml")[0]["resources"]
        assert path.name == "kustomization.yaml" or path.name in listed
