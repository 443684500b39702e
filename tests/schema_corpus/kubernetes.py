"""Resources of Kubernetes: open as its API describes them, and closed as linters of manifests want them."""

# Data: a schema stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.schema_corpus.build import (
    FLAG,
    NUMBER,
    TEXT,
    Schema,
    all_closed,
    integer,
    named,
    obj,
    of,
    ref,
    several,
    table,
    text,
    word,
)  # fmt: skip

LABEL = "^[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?$"
NAME = text(LABEL)
INT32: Schema = {"type": "integer", "format": "int32", "minimum": 0, "maximum": 2147483647}
PORT = integer(1, 65535, format="int32")
INT_OR_STRING: Schema = {"oneOf": [{"type": "string"}, {"type": "integer"}], "x-kubernetes-int-or-string": True}
QUANTITY: Schema = {"oneOf": [{"type": "string", "pattern": "^[0-9]{1,4}(m|Ki|Mi|Gi)?$"}, {"type": "number"}]}
LABELS = table(text(maxLength=20))
NULLABLE: Schema = {"type": ["string", "null"]}

PARTS: dict[str, Schema] = {
    "ObjectMeta": obj({"name": NAME, "namespace?": NAME, "labels?": LABELS, "annotations?": LABELS}),
    "LabelSelector": obj({
        "matchLabels?": LABELS,
        "matchExpressions?": several(
            obj({"key": TEXT, "operator": word("In", "NotIn", "Exists"), "values?": several(TEXT, 0, 3)}), 0, 2
        ),
    }),
    "EnvVar": obj({"name": text("^[A-Z_][A-Z0-9_]{0,15}$"), "value?": NULLABLE, "valueFrom?": obj({
        "configMapKeyRef?": obj({"name": NAME, "key": TEXT, "optional?": FLAG}),
        "secretKeyRef?": obj({"name": NAME, "key": TEXT}),
    })}),
    "Probe": obj({
        "httpGet?": obj({"path?": text("^/[a-z]{0,10}$"), "port": INT_OR_STRING, "scheme?": word("HTTP", "HTTPS")}),
        "exec?": obj({"command": several(TEXT, 1, 3)}), "periodSeconds?": INT32, "failureThreshold?": INT32,
    }),
    "ResourceRequirements": obj({"limits?": table(QUANTITY), "requests?": table(QUANTITY)}),
    "SecurityContext": obj({
        "runAsUser?": integer(0, 65535, format="int64"), "runAsNonRoot?": FLAG, "readOnlyRootFilesystem?": FLAG,
        "capabilities?": obj({"add?": several(TEXT, 0, 3), "drop?": several(word("ALL", "NET_RAW"), 0, 2)}),
    }),
    "ContainerPort": obj({"containerPort": PORT, "name?": NAME, "protocol?": word("TCP", "UDP", "SCTP")}),
    "VolumeMount": obj({"name": NAME, "mountPath": text("^/[a-z/]{1,20}$"), "readOnly?": FLAG}),
    "Container": obj({
        "name": NAME, "image": text("^[a-z0-9/.-]{1,25}(:[a-z0-9.]{1,8})?$"), "args?": several(TEXT, 0, 3),
        "env?": several(ref("EnvVar"), 0, 2), "ports?": several(ref("ContainerPort"), 0, 2),
        "resources?": ref("ResourceRequirements"), "livenessProbe?": ref("Probe"),
        "volumeMounts?": several(ref("VolumeMount"), 0, 2), "securityContext?": ref("SecurityContext"),
        "imagePullPolicy?": word("Always", "Never", "IfNotPresent"),
    }),
    "Volume": obj({
        "name": NAME, "emptyDir?": obj({"sizeLimit?": QUANTITY}), "configMap?": obj({"name": NAME}),
        "hostPath?": obj({"path": TEXT, "type?": word("", "Directory", "File")}),
    }),
    "Toleration": obj({
        "key?": TEXT, "operator?": word("Exists", "Equal"), "effect?": word("NoSchedule", "NoExecute"),
        "tolerationSeconds?": INT32,
    }),
    "PodSpec": obj({
        "containers": several(ref("Container"), 1, 2), "initContainers?": several(ref("Container"), 0, 1),
        "volumes?": several(ref("Volume"), 0, 2), "restartPolicy?": word("Always", "OnFailure", "Never"),
        "nodeSelector?": LABELS, "tolerations?": several(ref("Toleration"), 0, 2), "serviceAccountName?": NAME,
    }),
    "PodTemplateSpec": obj({"metadata?": ref("ObjectMeta"), "spec": ref("PodSpec")}),
    "ServicePort": obj({"port": PORT, "targetPort?": INT_OR_STRING, "nodePort?": integer(30000, 32767), "name?": NAME}),
    "ServiceSpec": obj({
        "selector?": LABELS, "ports": several(ref("ServicePort"), 1, 3), "clusterIP?": of("ipv4"),
        "type?": word("ClusterIP", "NodePort", "LoadBalancer"),
    }),
    "JobSpec": obj({"template": ref("PodTemplateSpec"), "backoffLimit?": INT32, "completions?": INT32}),
    "PolicyRule": obj({
        "apiGroups?": several(TEXT, 0, 2), "resources?": several(word("pods", "secrets", "services"), 1, 3),
        "verbs": several(word("get", "list", "watch", "create", "delete"), 1, 5),
    }),
    "MetricTarget": obj({"type": word("Utilization", "Value"), "averageUtilization?": integer(1, 100)}),
    "IngressRule": obj({"host?": of("hostname"), "http?": obj({"paths": several(obj({
        "path?": text("^/[a-z]{0,10}$"), "pathType": word("Exact", "Prefix"),
        "backend": obj({"service": obj({"name": NAME, "port": obj({"number": PORT})})}),
    }), 1, 2)})}),
    "NetworkPeer": obj({"podSelector?": ref("LabelSelector"), "ipBlock?": obj({
        "cidr": text("^([0-9]{1,2}\\.){3}[0-9]{1,2}/[0-9]{1,2}$"), "except?": several(TEXT, 0, 2),
    })}),
    "OwnerReference": obj({"apiVersion": TEXT, "kind": TEXT, "name": NAME, "uid": of("uuid"), "controller?": FLAG}),
    "Condition": obj({
        "type": text("^[A-Z][A-Za-z]{2,15}$"), "status": word("True", "False", "Unknown"),
        "lastTransitionTime?": of("date-time"), "reason?": TEXT, "message?": text(maxLength=40),
    }),
    "Affinity": obj({"weight": integer(1, 100), "term": obj({"topologyKey": TEXT, "labelSelector?": ref("LabelSelector")})}),
    "JSONSchemaProps": obj({
        "type?": word("object", "array", "string"), "items?": ref("JSONSchemaProps"),
        "properties?": table(ref("JSONSchemaProps")), "maxLength?": INT32,
    }),
}  # fmt: skip


def kind(version: str, name: str, spec: Schema | None = None, **more: Any) -> Schema:
    properties = {"apiVersion": {"const": version}, "kind": {"const": name}, "metadata": ref("ObjectMeta")}
    return obj({**properties, **({"spec": spec} if spec else {}), **more})


def scaled(spec: Schema) -> Schema:
    return obj({"replicas?": INT32, "selector": ref("LabelSelector"), "template": spec})


KINDS: dict[str, Schema] = {
    "Pod": kind("v1", "Pod", ref("PodSpec")),
    "Deployment": kind("apps/v1", "Deployment", scaled(ref("PodTemplateSpec"))),
    "StatefulSet": kind("apps/v1", "StatefulSet", scaled(ref("PodTemplateSpec"))),
    "DaemonSet": kind("apps/v1", "DaemonSet", obj({"template": ref("PodTemplateSpec")})),
    "Service": kind("v1", "Service", ref("ServiceSpec")),
    "ConfigMap": kind("v1", "ConfigMap", **{"data?": named("^[-._a-zA-Z0-9]{1,12}$", TEXT), "immutable?": FLAG}),
    "Secret": kind("v1", "Secret", **{
        "data?": table(text("^([A-Za-z0-9+/]{4}){0,4}$", contentEncoding="base64")), "type?": TEXT,
    }),
    "Namespace": kind("v1", "Namespace"),
    "ServiceAccount": kind("v1", "ServiceAccount", **{"automountServiceAccountToken?": FLAG}),
    "Job": kind("batch/v1", "Job", ref("JobSpec")),
    "CronJob": kind("batch/v1", "CronJob", obj({
        "schedule": text(r"^(\*|[0-9]{1,2})( (\*|[0-9]{1,2})){4}$"), "suspend?": FLAG,
        "concurrencyPolicy?": word("Allow", "Forbid", "Replace"), "jobTemplate": obj({"spec": ref("JobSpec")}),
    })),
    "Ingress": kind("networking.k8s.io/v1", "Ingress", obj({
        "ingressClassName?": NAME, "rules?": several(ref("IngressRule"), 1, 2),
        "tls?": several(obj({"hosts?": several(of("hostname"), 0, 2), "secretName?": NAME}), 0, 2),
    })),
    "NetworkPolicy": kind("networking.k8s.io/v1", "NetworkPolicy", obj({
        "podSelector": ref("LabelSelector"), "policyTypes?": several(word("Ingress", "Egress"), 1, 2),
        "ingress?": several(obj({"from?": several(ref("NetworkPeer"), 0, 2)}), 0, 2),
    })),
    "Role": kind("rbac.authorization.k8s.io/v1", "Role", rules=several(ref("PolicyRule"), 1, 2)),
    "RoleBinding": kind(
        "rbac.authorization.k8s.io/v1", "RoleBinding",
        roleRef=obj({"apiGroup": TEXT, "kind": word("Role", "ClusterRole"), "name": NAME}),
        subjects=several(obj({"kind": word("User", "Group"), "name": TEXT}), 1, 2),
    ),
    "PersistentVolumeClaim": kind("v1", "PersistentVolumeClaim", obj({
        "accessModes": several(word("ReadWriteOnce", "ReadOnlyMany"), 1, 2), "storageClassName?": NULLABLE,
        "resources": obj({"requests": obj({"storage": QUANTITY})}),
    })),
    "HorizontalPodAutoscaler": kind("autoscaling/v2", "HorizontalPodAutoscaler", obj({
        "minReplicas?": integer(1, 10), "maxReplicas": integer(1, 100),
        "scaleTargetRef": obj({"kind": TEXT, "name": NAME}),
        "metrics?": several(obj({"type": word("Resource"), "resource?": obj({
            "name": word("cpu", "memory"), "target": ref("MetricTarget"),
        })}), 0, 2),
    })),
    "PodDisruptionBudget": kind("policy/v1", "PodDisruptionBudget", obj({
        "minAvailable?": INT_OR_STRING, "selector?": ref("LabelSelector"),
    })),
    "ResourceQuota": kind("v1", "ResourceQuota", obj({"hard?": table(QUANTITY)})),
    "LimitRange": kind("v1", "LimitRange", obj({"limits": several(obj({
        "type": word("Pod", "Container"), "max?": table(QUANTITY), "default?": table(QUANTITY),
    }), 1, 2)})),
    "StorageClass": kind("storage.k8s.io/v1", "StorageClass", provisioner=TEXT, **{
        "parameters?": LABELS, "reclaimPolicy?": word("Delete", "Retain"), "allowVolumeExpansion?": FLAG,
    }),
    "PriorityClass": kind("scheduling.k8s.io/v1", "PriorityClass", value=integer(-1000, 1000), **{"globalDefault?": FLAG}),
    "Event": kind("v1", "Event", involvedObject=obj({"kind?": TEXT, "name?": NAME}), count=INT32, **{
        "firstTimestamp?": of("date-time"), "type?": word("Normal", "Warning"),
    }),
    "CustomResourceDefinition": kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", obj({
        "group": of("hostname"), "scope": word("Namespaced", "Cluster"),
        "versions": several(obj({"name": text("^v[0-9]{1,2}$"), "served": FLAG, "schema?": ref("JSONSchemaProps")}), 1, 2),
    })),
    "Node": kind("v1", "Node", obj({"podCIDR?": TEXT, "unschedulable?": FLAG, "taints?": several(ref("Toleration"), 0, 2)})),
    "Lease": kind("coordination.k8s.io/v1", "Lease", obj({"holderIdentity?": TEXT, "renewTime?": of("date-time")})),
    "Endpoints": kind("v1", "Endpoints", subsets=several(obj({
        "addresses?": several(obj({"ip": of("ipv4"), "hostname?": of("hostname")}), 0, 2),
        "ports?": several(obj({"port": PORT}), 0, 2),
    }), 0, 2)),
    "Scale": kind("autoscaling/v1", "Scale", obj({"replicas?": INT32}), status=obj({"replicas": INT32, "load?": NUMBER})),
    # What only some keywords can say.
    "Volume of one kind": {**PARTS["Volume"], "maxProperties": 2},
    "Ports that differ": several(ref("ContainerPort"), 1, 3, uniqueItems=True),
    "Probe of one handler": {**PARTS["Probe"], "oneOf": [{"required": ["httpGet"]}, {"required": ["exec"]}]},
}  # fmt: skip


def with_parts(schema: Schema) -> Schema:
    """The schema with those parts that it refers to."""
    needed: dict[str, Schema] = {}
    look = [schema]
    while look:
        found = str(look.pop())
        for name, part in PARTS.items():
            if f"'#/$defs/{name}'" in found and name not in needed:
                needed[name] = part
                look.append(part)
    return {**schema, **({"$defs": needed} if needed else {})}


_OPEN = {name: with_parts(schema) for name, schema in (KINDS | PARTS).items()}
SCHEMAS: dict[str, Schema] = {**_OPEN, **{f"{name}, closed": all_closed(schema) for name, schema in _OPEN.items()}}
