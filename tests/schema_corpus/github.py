"""Files that configure a repository on GitHub, and events that it sends."""

# Data: a schema stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from tests.schema_corpus.build import (
    FLAG,
    NULL,
    NUMBER,
    TEXT,
    Schema,
    all_closed,
    closed,
    either,
    integer,
    named,
    number,
    obj,
    of,
    ref,
    several,
    table,
    text,
    word,
)  # fmt: skip

EXPRESSION = text(r"^\$\{\{ [a-z._]{3,20} \}\}$")
BRANCHES = several(text(maxLength=12), 1, 2)
NAME = text("^[_a-zA-Z][a-zA-Z0-9_-]{0,10}$")
EVENT = word("push", "pull_request", "workflow_dispatch", "schedule")
COLOUR = text("^[0-9a-f]{6}$")
LOGIN = text("^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$")

PARTS: dict[str, Schema] = {
    "step": {"oneOf": [
        closed({"uses": text(r"^[a-z-]{2,10}/[a-z-]{2,10}@v[0-9]$"), "with?": table(either(TEXT, NUMBER, FLAG)), "name?": TEXT}),
        closed({"run": TEXT, "shell?": word("bash", "pwsh"), "name?": TEXT, "working-directory?": TEXT}),
    ]},
    "environment": named("^[A-Z_]{1,10}$", either(TEXT, NUMBER, FLAG)),
    "matrix": {"type": "object", "patternProperties": {"^[a-z]{1,8}$": either(several(either(TEXT, NUMBER), 1, 3), EXPRESSION)},
               "additionalProperties": False},
    "job": closed({
        "runs-on": either(word("ubuntu-latest", "macos-latest"), EXPRESSION, several(TEXT, 1, 2)),
        "steps": several(ref("step"), 1, 2), "needs?": either(NAME, several(NAME, 1, 2)), "timeout-minutes?": integer(1, 360),
        "strategy?": closed({"matrix": ref("matrix"), "fail-fast?": FLAG, "max-parallel?": integer(1, 9)}),
        "env?": ref("environment"), "if?": either(FLAG, NUMBER, TEXT),
    }),
    "permissions": either(word("read-all", "write-all"), closed({
        "contents?": word("read", "write", "none"), "issues?": word("read", "write", "none"), "packages?": word("read"),
    })),
    "user": obj({"login": LOGIN, "id": integer(1), "site_admin?": FLAG, "html_url?": of("uri")}),
    "label": obj({"name": text(minLength=1, maxLength=20), "color": COLOUR, "description?": {"type": ["string", "null"]}}),
    "comment": obj({"body": TEXT, "author": ref("user"), "replies?": several(ref("comment"), 0, 2)}),
}  # fmt: skip

FILES: dict[str, Schema] = {
    "workflow": closed({
        "name?": TEXT, "on": either(EVENT, several(EVENT, 1, 3)), "env?": ref("environment"),
        "jobs": named("^[_a-zA-Z][a-zA-Z0-9_-]{0,10}$", ref("job")), "permissions?": ref("permissions"),
    }),
    "workflow, triggers": obj({"on": closed({
        "push?": either(NULL, closed({"branches?": BRANCHES, "tags?": BRANCHES, "paths?": BRANCHES})),
        "pull_request?": either(NULL, closed({"types?": several(word("opened", "closed"), 1, 2)})),
        "schedule?": several(closed({"cron": text(r"^([0-9]{1,2}|\*)( ([0-9]{1,2}|\*)){4}$")}), 1, 2),
    })}),
    "workflow, inputs": obj({"inputs": named("^[a-z_]{1,10}$", {"oneOf": [
        closed({"type": {"const": "choice"}, "options": several(TEXT, 1, 3), "default?": TEXT}),
        closed({"type": {"const": "boolean"}, "default?": FLAG}),
        closed({"type": {"const": "number"}, "default?": NUMBER}),
    ]})}),
    "workflow, concurrency": obj({"concurrency": either(TEXT, closed({"group": TEXT, "cancel-in-progress?": either(FLAG, EXPRESSION)}))}),
    "workflow, services": obj({"services": table(closed({
        "image": TEXT, "ports?": several(either(integer(1, 65535), TEXT), 0, 2), "env?": ref("environment"), "options?": TEXT,
    }))}),
    "action": obj({
        "name": TEXT, "description": TEXT, "inputs?": table(obj({"description": TEXT, "required?": FLAG, "default?": TEXT})),
        "runs": either(
            closed({"using": word("node20", "node22"), "main": TEXT, "post?": TEXT}),
            closed({"using": {"const": "docker"}, "image": TEXT, "args?": several(TEXT, 0, 2)}),
            closed({"using": {"const": "composite"}, "steps": several(ref("step"), 1, 2)}),
        ),
        "branding?": obj({"color?": word("white", "blue"), "icon?": word("alert", "anchor")}),
    }),
    "dependabot": closed({"version": {"const": 2}, "updates": several(closed({
        "package-ecosystem": word("npm", "pip", "cargo"), "directory": text("^/[a-z]{0,8}$"),
        "schedule": obj({"interval": word("daily", "weekly"), "day?": word("monday", "friday"), "time?": text("^([01][0-9]|2[0-3]):[0-5][0-9]$")}),
        "open-pull-requests-limit?": integer(0, 20), "labels?": several(TEXT, 0, 2), "ignore?": several(obj({"dependency-name": TEXT}), 0, 2),
    }), 1, 2)}),
    "issue form": obj({"name": TEXT, "description": TEXT, "labels?": several(TEXT, 0, 2), "body": several({"anyOf": [
        closed({"type": {"const": "markdown"}, "attributes": closed({"value": TEXT})}),
        closed({"type": {"const": "input"}, "id?": NAME, "attributes": obj({"label": TEXT}), "validations?": closed({"required?": FLAG})}),
        closed({"type": {"const": "dropdown"}, "attributes": obj({"label": TEXT, "options": several(TEXT, 1, 3), "multiple?": FLAG})}),
    ]}, 1, 3)}),
    "issue template's config": closed({"blank_issues_enabled?": FLAG, "contact_links?": several(closed({"name": TEXT, "url": of("uri"), "about": TEXT}), 0, 2)}),
    "funding": closed({
        "github?": either(LOGIN, several(LOGIN, 1, 4)), "patreon?": TEXT, "custom?": either(of("uri"), several(of("uri"), 1, 2)),
    }),
    "release notes": obj({"changelog": obj({"exclude?": obj({"labels?": several(TEXT, 0, 2)}), "categories?": several(obj({
        "title": TEXT, "labels": several(TEXT, 1, 2),
    }), 0, 2)})}),
    "labels": several(ref("label"), 1, 3),
    "labeler": table(several(obj({"changed-files?": several(obj({"any-glob-to-any-file?": several(TEXT, 1, 2)}), 0, 1)}), 1, 2)),
    "branch rules": obj({
        "name": text(minLength=1, maxLength=20), "target?": word("branch", "tag"), "enforcement": word("disabled", "active"),
        "rules?": several({"oneOf": [
            closed({"type": {"const": "creation"}}),
            closed({"type": {"const": "required_linear_history"}}),
            closed({"type": {"const": "pull_request"}, "parameters?": closed({"required_approving_review_count": integer(0, 10)})}),
        ]}, 0, 3),
    }),
    "stale": obj({"daysUntilStale?": either({"const": False}, integer(1)), "exemptLabels?": several(TEXT, 0, 2), "only?": {"enum": ["issues", "pulls", None]}}),
    "codecov": obj({"coverage": obj({"precision?": integer(0, 5), "range?": text(r"^[0-9]{1,2}\.\.\.[0-9]{1,2}$"), "status?": table(either(FLAG, obj({
        "target?": either(word("auto"), number(0, 100)), "threshold?": number(0, 100),
    })))})}),
    "pre-commit": obj({"repos": several(obj({"repo": either(of("uri"), word("local", "meta")), "rev?": TEXT, "hooks": several(obj({
        "id": TEXT, "args?": several(TEXT, 0, 2), "files?": TEXT, "stages?": several(word("commit", "push"), 0, 2),
    }), 1, 2)}), 1, 2), "fail_fast?": FLAG}),
    "code owners": several(obj({"pattern": TEXT, "owners": several(either(text("^@[a-z]{1,10}$"), of("email")), 1, 2)}), 1, 3),
    "pages": obj({"source": obj({"branch": TEXT, "path": word("/", "/docs")}), "cname?": of("hostname"), "https_enforced?": FLAG}),
    "secret scanning": closed({"paths-ignore?": several(TEXT, 0, 3)}),
    "discussion form": obj({"title?": TEXT, "body": several(obj({"type": word("textarea"), "attributes": obj({"label": TEXT, "value?": TEXT})}), 1, 2)}),
    "devcontainer": obj({
        "image": TEXT, "forwardPorts?": several(either(integer(0, 65535), text("^[a-z]{1,8}:[0-9]{2,5}$")), 0, 2), "features?": table(table()),
        "postCreateCommand?": either(TEXT, several(TEXT, 1, 3), table(either(TEXT, several(TEXT, 1, 2)))), "remoteUser?": TEXT,
    }),
    "push event": obj({"ref": text("^refs/heads/[a-z]{1,10}$"), "after": text("^[0-9a-f]{40}$"), "forced": FLAG, "commits": several(obj({
        "id": text("^[0-9a-f]{40}$"), "message": TEXT, "timestamp": of("date-time"), "author": obj({"name": TEXT, "email?": either(of("email"), NULL)}),
    }), 0, 2), "pusher": ref("user")}),
    "issue event": obj({"action": word("opened", "closed", "labeled"), "issue": obj({
        "number": integer(1), "title": TEXT, "state": word("open", "closed"), "labels": several(ref("label"), 0, 2), "user": ref("user"),
        "closed_at?": either(of("date-time"), NULL), "assignee?": either(ref("user"), NULL),
    })}),
    "thread": ref("comment"),
    "release event": obj({"tag_name": text(r"^v[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}$"), "draft": FLAG, "published_at?": either(of("date-time"), NULL), "assets": several(obj({
        "name": TEXT, "size": integer(0), "download_count": integer(0), "url": of("uri"),
    }), 0, 2)}),
    "workflow, step of one kind": obj({"uses?": TEXT, "run?": TEXT}, oneOf=[{"required": ["uses"]}, {"required": ["run"]}]),
    "labels that differ": several(ref("label"), 1, 3, uniqueItems=True),
    "workflow, with needs": obj({"uses?": TEXT, "with?": table(TEXT)}, dependentRequired={"with": ["uses"]}),
    "permissions, some": {**closed({"contents?": word("read"), "issues?": word("write")}), "minProperties": 1},
    "workflow, shell": obj({"run": TEXT, "shell?": TEXT}, **{"if": {"required": ["shell"]}, "then": {"required": ["run"]}, "else": True}),
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


_OPEN = {name: with_parts(schema) for name, schema in (FILES | PARTS).items()}
SCHEMAS: dict[str, Schema] = {
    **_OPEN,
    **{f"{name}, closed": all_closed(schema) for name, schema in _OPEN.items() if all_closed(schema) != schema},
}
