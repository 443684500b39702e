"""Schemas of Kubernetes resources: with open objects as the API describes them, and with closed objects for linters."""

# Each schema is data and stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.schema_corpus.build import (
    BOOLEAN,
    NUMBER,
    TEXT,
    Schema,
    array,
    integer,
    map_of,
    obj,
    pattern_map,
    ref,
    string_enum,
    string_of,
    text,
    with_closed_objects,
    with_definitions,
)  # fmt: skip

LABEL = "^[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?$"
NAME = text(LABEL)
INT32: Schema = {"type": "integer", "format": "int32", "minimum": 0, "maximum": 2147483647}
PORT = integer(1, 65535, format="int32")
INT_OR_STRING: Schema = {"oneOf": [{"type": "string"}, {"type": "integer"}], "x-kubernetes-int-or-string": True}
QUANTITY: Schema = {"oneOf": [{"type": "string", "pattern": "^[0-9]{1,4}(m|Ki|Mi|Gi)?$"}, {"type": "number"}]}
LABELS = map_of(text(maxLength=20))
NULLABLE: Schema = {"type": ["string", "null"]}

PARTS: dict[str, Schema] = {
    "ObjectMeta": obj({"name": NAME, "namespace?": NAME, "labels?": LABELS, "annotations?": LABELS}),
    "LabelSelector": obj({
        "matchLabels?": LABELS,
        "matchExpressions?": array(
            obj({"key": TEXT, "operator": string_enum("In", "NotIn", "Exists"), "values?": array(TEXT, 0, 3)}), 0, 2
        ),
    }),
    "EnvVar": obj({"name": text("^[A-Z_][A-Z0-9_]{0,15}$"), "value?": NULLABLE, "valueFrom?": obj({
        "configMapKeyRef?": obj({"name": NAME, "key": TEXT, "optional?": BOOLEAN}),
        "secretKeyRef?": obj({"name": NAME, "key": TEXT}),
    })}),
    "Probe": obj({
        "httpGet?": obj({"path?": text("^/[a-z]{0,10}$"), "port": INT_OR_STRING, "scheme?": string_enum("HTTP", "HTTPS")}),
        "exec?": obj({"command": array(TEXT, 1, 3)}), "periodSeconds?": INT32, "failureThreshold?": INT32,
    }),
    "ResourceRequirements": obj({"limits?": map_of(QUANTITY), "requests?": map_of(QUANTITY)}),
    "SecurityContext": obj({
        "runAsUser?": integer(0, 65535, format="int64"), "runAsNonRoot?": BOOLEAN, "readOnlyRootFilesystem?": BOOLEAN,
        "capabilities?": obj({"add?": array(TEXT, 0, 3), "drop?": array(string_enum("ALL", "NET_RAW"), 0, 2)}),
    }),
    "ContainerPort": obj({"containerPort": PORT, "name?": NAME, "protocol?": string_enum("TCP", "UDP", "SCTP")}),
    "VolumeMount": obj({"name": NAME, "mountPath": text("^/[a-z/]{1,20}$"), "readOnly?": BOOLEAN}),
    "Container": obj({
        "name": NAME, "image": text("^[a-z0-9/.-]{1,25}(:[a-z0-9.]{1,8})?$"), "args?": array(TEXT, 0, 3),
        "env?": array(ref("EnvVar"), 0, 2), "ports?": array(ref("ContainerPort"), 0, 2),
        "resources?": ref("ResourceRequirements"), "livenessProbe?": ref("Probe"),
        "volumeMounts?": array(ref("VolumeMount"), 0, 2), "securityContext?": ref("SecurityContext"),
        "imagePullPolicy?": string_enum("Always", "Never", "IfNotPresent"),
    }),
    "Volume": obj({
        "name": NAME, "emptyDir?": obj({"sizeLimit?": QUANTITY}), "configMap?": obj({"name": NAME}),
        "hostPath?": obj({"path": TEXT, "type?": string_enum("", "Directory", "File")}),
    }),
    "Toleration": obj({
        "key?": TEXT, "operator?": string_enum("Exists", "Equal"), "effect?": string_enum("NoSchedule", "NoExecute"),
        "tolerationSeconds?": INT32,
    }),
    "PodSpec": obj({
        "containers": array(ref("Container"), 1, 2), "initContainers?": array(ref("Container"), 0, 1),
        "volumes?": array(ref("Volume"), 0, 2), "restartPolicy?": string_enum("Always", "OnFailure", "Never"),
        "nodeSelector?": LABELS, "tolerations?": array(ref("Toleration"), 0, 2), "serviceAccountName?": NAME,
    }),
    "PodTemplateSpec": obj({"metadata?": ref("ObjectMeta"), "spec": ref("PodSpec")}),
    "ServicePort": obj({"port": PORT, "targetPort?": INT_OR_STRING, "nodePort?": integer(30000, 32767), "name?": NAME}),
    "ServiceSpec": obj({
        "selector?": LABELS, "ports": array(ref("ServicePort"), 1, 3), "clusterIP?": string_of("ipv4"),
        "type?": string_enum("ClusterIP", "NodePort", "LoadBalancer"),
    }),
    "JobSpec": obj({"template": ref("PodTemplateSpec"), "backoffLimit?": INT32, "completions?": INT32}),
    "PolicyRule": obj({
        "apiGroups?": array(TEXT, 0, 2), "resources?": array(string_enum("pods", "secrets", "services"), 1, 3),
        "verbs": array(string_enum("get", "list", "watch", "create", "delete"), 1, 5),
    }),
    "MetricTarget": obj({"type": string_enum("Utilization", "Value"), "averageUtilization?": integer(1, 100)}),
    "IngressRule": obj({"host?": string_of("hostname"), "http?": obj({"paths": array(obj({
        "path?": text("^/[a-z]{0,10}$"), "pathType": string_enum("Exact", "Prefix"),
        "backend": obj({"service": obj({"name": NAME, "port": obj({"number": PORT})})}),
    }), 1, 2)})}),
    "NetworkPeer": obj({"podSelector?": ref("LabelSelector"), "ipBlock?": obj({
        "cidr": text("^([0-9]{1,2}\\.){3}[0-9]{1,2}/[0-9]{1,2}$"), "except?": array(TEXT, 0, 2),
    })}),
    "OwnerReference": obj({"apiVersion": TEXT, "kind": TEXT, "name": NAME, "uid": string_of("uuid"), "controller?": BOOLEAN}),
    "Condition": obj({
        "type": text("^[A-Z][A-Za-z]{2,15}$"), "status": string_enum("True", "False", "Unknown"),
        "lastTransitionTime?": string_of("date-time"), "reason?": TEXT, "message?": text(maxLength=40),
    }),
    "Affinity": obj({"weight": integer(1, 100), "term": obj({"topologyKey": TEXT, "labelSelector?": ref("LabelSelector")})}),
    "JSONSchemaProps": obj({
        "type?": string_enum("object", "array", "string"), "items?": ref("JSONSchemaProps"),
        "properties?": map_of(ref("JSONSchemaProps")), "maxLength?": INT32,
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
    "ConfigMap": kind("v1", "ConfigMap", **{"data?": pattern_map("^[-._a-zA-Z0-9]{1,12}$", TEXT), "immutable?": BOOLEAN}),
    "Secret": kind("v1", "Secret", **{
        "data?": map_of(text("^([A-Za-z0-9+/]{4}){0,4}$", contentEncoding="base64")), "type?": TEXT,
    }),
    "Namespace": kind("v1", "Namespace"),
    "ServiceAccount": kind("v1", "ServiceAccount", **{"automountServiceAccountToken?": BOOLEAN}),
    "Job": kind("batch/v1", "Job", ref("JobSpec")),
    "CronJob": kind("batch/v1", "CronJob", obj({
        "schedule": text(r"^(\*|[0-9]{1,2})( (\*|[0-9]{1,2})){4}$"), "suspend?": BOOLEAN,
        "concurrencyPolicy?": string_enum("Allow", "Forbid", "Replace"), "jobTemplate": obj({"spec": ref("JobSpec")}),
    })),
    "Ingress": kind("networking.k8s.io/v1", "Ingress", obj({
        "ingressClassName?": NAME, "rules?": array(ref("IngressRule"), 1, 2),
        "tls?": array(obj({"hosts?": array(string_of("hostname"), 0, 2), "secretName?": NAME}), 0, 2),
    })),
    "NetworkPolicy": kind("networking.k8s.io/v1", "NetworkPolicy", obj({
        "podSelector": ref("LabelSelector"), "policyTypes?": array(string_enum("Ingress", "Egress"), 1, 2),
        "ingress?": array(obj({"from?": array(ref("NetworkPeer"), 0, 2)}), 0, 2),
    })),
    "Role": kind("rbac.authorization.k8s.io/v1", "Role", rules=array(ref("PolicyRule"), 1, 2)),
    "RoleBinding": kind(
        "rbac.authorization.k8s.io/v1", "RoleBinding",
        roleRef=obj({"apiGroup": TEXT, "kind": string_enum("Role", "ClusterRole"), "name": NAME}),
        subjects=array(obj({"kind": string_enum("User", "Group"), "name": TEXT}), 1, 2),
    ),
    "PersistentVolumeClaim": kind("v1", "PersistentVolumeClaim", obj({
        "accessModes": array(string_enum("ReadWriteOnce", "ReadOnlyMany"), 1, 2), "storageClassName?": NULLABLE,
        "resources": obj({"requests": obj({"storage": QUANTITY})}),
    })),
    "HorizontalPodAutoscaler": kind("autoscaling/v2", "HorizontalPodAutoscaler", obj({
        "minReplicas?": integer(1, 10), "maxReplicas": integer(1, 100),
        "scaleTargetRef": obj({"kind": TEXT, "name": NAME}),
        "metrics?": array(obj({"type": string_enum("Resource"), "resource?": obj({
            "name": string_enum("cpu", "memory"), "target": ref("MetricTarget"),
        })}), 0, 2),
    })),
    "PodDisruptionBudget": kind("policy/v1", "PodDisruptionBudget", obj({
        "minAvailable?": INT_OR_STRING, "selector?": ref("LabelSelector"),
    })),
    "ResourceQuota": kind("v1", "ResourceQuota", obj({"hard?": map_of(QUANTITY)})),
    "LimitRange": kind("v1", "LimitRange", obj({"limits": array(obj({
        "type": string_enum("Pod", "Container"), "max?": map_of(QUANTITY), "default?": map_of(QUANTITY),
    }), 1, 2)})),
    "StorageClass": kind("storage.k8s.io/v1", "StorageClass", provisioner=TEXT, **{
        "parameters?": LABELS, "reclaimPolicy?": string_enum("Delete", "Retain"), "allowVolumeExpansion?": BOOLEAN,
    }),
    "PriorityClass": kind("scheduling.k8s.io/v1", "PriorityClass", value=integer(-1000, 1000), **{"globalDefault?": BOOLEAN}),
    "Event": kind("v1", "Event", involvedObject=obj({"kind?": TEXT, "name?": NAME}), count=INT32, **{
        "firstTimestamp?": string_of("date-time"), "type?": string_enum("Normal", "Warning"),
    }),
    "CustomResourceDefinition": kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", obj({
        "group": string_of("hostname"), "scope": string_enum("Namespaced", "Cluster"),
        "versions": array(obj({"name": text("^v[0-9]{1,2}$"), "served": BOOLEAN, "schema?": ref("JSONSchemaProps")}), 1, 2),
    })),
    "Node": kind("v1", "Node", obj({"podCIDR?": TEXT, "unschedulable?": BOOLEAN, "taints?": array(ref("Toleration"), 0, 2)})),
    "Lease": kind("coordination.k8s.io/v1", "Lease", obj({"holderIdentity?": TEXT, "renewTime?": string_of("date-time")})),
    "Endpoints": kind("v1", "Endpoints", subsets=array(obj({
        "addresses?": array(obj({"ip": string_of("ipv4"), "hostname?": string_of("hostname")}), 0, 2),
        "ports?": array(obj({"port": PORT}), 0, 2),
    }), 0, 2)),
    "Scale": kind("autoscaling/v1", "Scale", obj({"replicas?": INT32}), status=obj({"replicas": INT32, "load?": NUMBER})),
    # Schemas that need other keywords.
    "Volume of one kind": {**PARTS["Volume"], "maxProperties": 2},
    "Ports that differ": array(ref("ContainerPort"), 1, 3, uniqueItems=True),
    "Probe of one handler": {**PARTS["Probe"], "oneOf": [{"required": ["httpGet"]}, {"required": ["exec"]}]},
}  # fmt: skip


_OPEN = {name: with_definitions(schema, PARTS) for name, schema in (KINDS | PARTS).items()}
SCHEMAS: dict[str, Schema] = {
    **_OPEN,
    **{f"{name}, closed": with_closed_objects(schema) for name, schema in _OPEN.items()},
}
