"""Schemas of files that configure a GitHub repository, and of events that GitHub sends."""

# Each schema is data and stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from tests.schema_corpus.build import (
    BOOLEAN,
    NULL,
    NUMBER,
    TEXT,
    Schema,
    any_of,
    array,
    closed_obj,
    integer,
    map_of,
    number,
    obj,
    pattern_map,
    ref,
    string_enum,
    string_of,
    text,
    with_closed_objects,
    with_definitions,
)  # fmt: skip

EXPRESSION = text(r"^\$\{\{ [a-z._]{3,20} \}\}$")
BRANCHES = array(text(maxLength=12), 1, 2)
NAME = text("^[_a-zA-Z][a-zA-Z0-9_-]{0,10}$")
EVENT = string_enum("push", "pull_request", "workflow_dispatch", "schedule")
COLOUR = text("^[0-9a-f]{6}$")
LOGIN = text("^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$")

PARTS: dict[str, Schema] = {
    "step": {"oneOf": [
        closed_obj({"uses": text(r"^[a-z-]{2,10}/[a-z-]{2,10}@v[0-9]$"), "with?": map_of(any_of(TEXT, NUMBER, BOOLEAN)), "name?": TEXT}),
        closed_obj({"run": TEXT, "shell?": string_enum("bash", "pwsh"), "name?": TEXT, "working-directory?": TEXT}),
    ]},
    "environment": pattern_map("^[A-Z_]{1,10}$", any_of(TEXT, NUMBER, BOOLEAN)),
    "matrix": {"type": "object", "patternProperties": {"^[a-z]{1,8}$": any_of(array(any_of(TEXT, NUMBER), 1, 3), EXPRESSION)},
               "additionalProperties": False},
    "job": closed_obj({
        "runs-on": any_of(string_enum("ubuntu-latest", "macos-latest"), EXPRESSION, array(TEXT, 1, 2)),
        "steps": array(ref("step"), 1, 2), "needs?": any_of(NAME, array(NAME, 1, 2)), "timeout-minutes?": integer(1, 360),
        "strategy?": closed_obj({"matrix": ref("matrix"), "fail-fast?": BOOLEAN, "max-parallel?": integer(1, 9)}),
        "env?": ref("environment"), "if?": any_of(BOOLEAN, NUMBER, TEXT),
    }),
    "permissions": any_of(string_enum("read-all", "write-all"), closed_obj({
        "contents?": string_enum("read", "write", "none"), "issues?": string_enum("read", "write", "none"), "packages?": string_enum("read"),
    })),
    "user": obj({"login": LOGIN, "id": integer(1), "site_admin?": BOOLEAN, "html_url?": string_of("uri")}),
    "label": obj({"name": text(minLength=1, maxLength=20), "color": COLOUR, "description?": {"type": ["string", "null"]}}),
    "comment": obj({"body": TEXT, "author": ref("user"), "replies?": array(ref("comment"), 0, 2)}),
}  # fmt: skip

FILES: dict[str, Schema] = {
    "workflow": closed_obj({
        "name?": TEXT, "on": any_of(EVENT, array(EVENT, 1, 3)), "env?": ref("environment"),
        "jobs": pattern_map("^[_a-zA-Z][a-zA-Z0-9_-]{0,10}$", ref("job")), "permissions?": ref("permissions"),
    }),
    "workflow, triggers": obj({"on": closed_obj({
        "push?": any_of(NULL, closed_obj({"branches?": BRANCHES, "tags?": BRANCHES, "paths?": BRANCHES})),
        "pull_request?": any_of(NULL, closed_obj({"types?": array(string_enum("opened", "closed"), 1, 2)})),
        "schedule?": array(closed_obj({"cron": text(r"^([0-9]{1,2}|\*)( ([0-9]{1,2}|\*)){4}$")}), 1, 2),
    })}),
    "workflow, inputs": obj({"inputs": pattern_map("^[a-z_]{1,10}$", {"oneOf": [
        closed_obj({"type": {"const": "choice"}, "options": array(TEXT, 1, 3), "default?": TEXT}),
        closed_obj({"type": {"const": "boolean"}, "default?": BOOLEAN}),
        closed_obj({"type": {"const": "number"}, "default?": NUMBER}),
    ]})}),
    "workflow, concurrency": obj({"concurrency": any_of(TEXT, closed_obj({"group": TEXT, "cancel-in-progress?": any_of(BOOLEAN, EXPRESSION)}))}),
    "workflow, services": obj({"services": map_of(closed_obj({
        "image": TEXT, "ports?": array(any_of(integer(1, 65535), TEXT), 0, 2), "env?": ref("environment"), "options?": TEXT,
    }))}),
    "action": obj({
        "name": TEXT, "description": TEXT, "inputs?": map_of(obj({"description": TEXT, "required?": BOOLEAN, "default?": TEXT})),
        "runs": any_of(
            closed_obj({"using": string_enum("node20", "node22"), "main": TEXT, "post?": TEXT}),
            closed_obj({"using": {"const": "docker"}, "image": TEXT, "args?": array(TEXT, 0, 2)}),
            closed_obj({"using": {"const": "composite"}, "steps": array(ref("step"), 1, 2)}),
        ),
        "branding?": obj({"color?": string_enum("white", "blue"), "icon?": string_enum("alert", "anchor")}),
    }),
    "dependabot": closed_obj({"version": {"const": 2}, "updates": array(closed_obj({
        "package-ecosystem": string_enum("npm", "pip", "cargo"), "directory": text("^/[a-z]{0,8}$"),
        "schedule": obj({"interval": string_enum("daily", "weekly"), "day?": string_enum("monday", "friday"), "time?": text("^([01][0-9]|2[0-3]):[0-5][0-9]$")}),
        "open-pull-requests-limit?": integer(0, 20), "labels?": array(TEXT, 0, 2), "ignore?": array(obj({"dependency-name": TEXT}), 0, 2),
    }), 1, 2)}),
    "issue form": obj({"name": TEXT, "description": TEXT, "labels?": array(TEXT, 0, 2), "body": array({"anyOf": [
        closed_obj({"type": {"const": "markdown"}, "attributes": closed_obj({"value": TEXT})}),
        closed_obj({"type": {"const": "input"}, "id?": NAME, "attributes": obj({"label": TEXT}), "validations?": closed_obj({"required?": BOOLEAN})}),
        closed_obj({"type": {"const": "dropdown"}, "attributes": obj({"label": TEXT, "options": array(TEXT, 1, 3), "multiple?": BOOLEAN})}),
    ]}, 1, 3)}),
    "issue template's config": closed_obj({"blank_issues_enabled?": BOOLEAN, "contact_links?": array(closed_obj({"name": TEXT, "url": string_of("uri"), "about": TEXT}), 0, 2)}),
    "funding": closed_obj({
        "github?": any_of(LOGIN, array(LOGIN, 1, 4)), "patreon?": TEXT, "custom?": any_of(string_of("uri"), array(string_of("uri"), 1, 2)),
    }),
    "release notes": obj({"changelog": obj({"exclude?": obj({"labels?": array(TEXT, 0, 2)}), "categories?": array(obj({
        "title": TEXT, "labels": array(TEXT, 1, 2),
    }), 0, 2)})}),
    "labels": array(ref("label"), 1, 3),
    "labeler": map_of(array(obj({"changed-files?": array(obj({"any-glob-to-any-file?": array(TEXT, 1, 2)}), 0, 1)}), 1, 2)),
    "branch rules": obj({
        "name": text(minLength=1, maxLength=20), "target?": string_enum("branch", "tag"), "enforcement": string_enum("disabled", "active"),
        "rules?": array({"oneOf": [
            closed_obj({"type": {"const": "creation"}}),
            closed_obj({"type": {"const": "required_linear_history"}}),
            closed_obj({"type": {"const": "pull_request"}, "parameters?": closed_obj({"required_approving_review_count": integer(0, 10)})}),
        ]}, 0, 3),
    }),
    "stale": obj({"daysUntilStale?": any_of({"const": False}, integer(1)), "exemptLabels?": array(TEXT, 0, 2), "only?": {"enum": ["issues", "pulls", None]}}),
    "codecov": obj({"coverage": obj({"precision?": integer(0, 5), "range?": text(r"^[0-9]{1,2}\.\.\.[0-9]{1,2}$"), "status?": map_of(any_of(BOOLEAN, obj({
        "target?": any_of(string_enum("auto"), number(0, 100)), "threshold?": number(0, 100),
    })))})}),
    "pre-commit": obj({"repos": array(obj({"repo": any_of(string_of("uri"), string_enum("local", "meta")), "rev?": TEXT, "hooks": array(obj({
        "id": TEXT, "args?": array(TEXT, 0, 2), "files?": TEXT, "stages?": array(string_enum("commit", "push"), 0, 2),
    }), 1, 2)}), 1, 2), "fail_fast?": BOOLEAN}),
    "code owners": array(obj({"pattern": TEXT, "owners": array(any_of(text("^@[a-z]{1,10}$"), string_of("email")), 1, 2)}), 1, 3),
    "pages": obj({"source": obj({"branch": TEXT, "path": string_enum("/", "/docs")}), "cname?": string_of("hostname"), "https_enforced?": BOOLEAN}),
    "secret scanning": closed_obj({"paths-ignore?": array(TEXT, 0, 3)}),
    "discussion form": obj({"title?": TEXT, "body": array(obj({"type": string_enum("textarea"), "attributes": obj({"label": TEXT, "value?": TEXT})}), 1, 2)}),
    "devcontainer": obj({
        "image": TEXT, "forwardPorts?": array(any_of(integer(0, 65535), text("^[a-z]{1,8}:[0-9]{2,5}$")), 0, 2), "features?": map_of(map_of()),
        "postCreateCommand?": any_of(TEXT, array(TEXT, 1, 3), map_of(any_of(TEXT, array(TEXT, 1, 2)))), "remoteUser?": TEXT,
    }),
    "push event": obj({"ref": text("^refs/heads/[a-z]{1,10}$"), "after": text("^[0-9a-f]{40}$"), "forced": BOOLEAN, "commits": array(obj({
        "id": text("^[0-9a-f]{40}$"), "message": TEXT, "timestamp": string_of("date-time"), "author": obj({"name": TEXT, "email?": any_of(string_of("email"), NULL)}),
    }), 0, 2), "pusher": ref("user")}),
    "issue event": obj({"action": string_enum("opened", "closed", "labeled"), "issue": obj({
        "number": integer(1), "title": TEXT, "state": string_enum("open", "closed"), "labels": array(ref("label"), 0, 2), "user": ref("user"),
        "closed_at?": any_of(string_of("date-time"), NULL), "assignee?": any_of(ref("user"), NULL),
    })}),
    "thread": ref("comment"),
    "release event": obj({"tag_name": text(r"^v[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}$"), "draft": BOOLEAN, "published_at?": any_of(string_of("date-time"), NULL), "assets": array(obj({
        "name": TEXT, "size": integer(0), "download_count": integer(0), "url": string_of("uri"),
    }), 0, 2)}),
    "workflow, step of one kind": obj({"uses?": TEXT, "run?": TEXT}, oneOf=[{"required": ["uses"]}, {"required": ["run"]}]),
    "labels that differ": array(ref("label"), 1, 3, uniqueItems=True),
    "workflow, with needs": obj({"uses?": TEXT, "with?": map_of(TEXT)}, dependentRequired={"with": ["uses"]}),
    "permissions, some": {**closed_obj({"contents?": string_enum("read"), "issues?": string_enum("write")}), "minProperties": 1},
    "workflow, shell": obj({"run": TEXT, "shell?": TEXT}, **{"if": {"required": ["shell"]}, "then": {"required": ["run"]}, "else": True}),
}  # fmt: skip


_OPEN = {name: with_definitions(schema, PARTS) for name, schema in (FILES | PARTS).items()}
SCHEMAS: dict[str, Schema] = {
    **_OPEN,
    **{
        f"{name}, closed": with_closed_objects(schema)
        for name, schema in _OPEN.items()
        if with_closed_objects(schema) != schema
    },
}
