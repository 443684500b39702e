"""Manifests of packages, as catalogues of schemas have them: draft-07, definitions, keys by pattern, many alternatives."""

# Data: a schema stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.schema_corpus.build import (
    FLAG,
    INTEGER,
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
    one,
    ref,
    several,
    table,
    text,
    word,
)  # fmt: skip

VERSION = text(r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z0-9]{1,6})?$")
RANGE = text(r"^[\^~]?[0-9]{1,2}(\.[0-9]{1,2}){0,2}$")
NPM_NAME = text("^(@[a-z0-9-]{1,8}/)?[a-z0-9-]{1,12}$")
LICENCE = word("MIT", "Apache-2.0", "BSD-3-Clause", "MPL-2.0")
PERSON = either(TEXT, obj({"name": TEXT, "email?": of("email"), "url?": of("uri")}))
DEPENDENCIES = named("^(@[a-z0-9-]{1,8}/)?[a-z0-9-]{1,12}$", RANGE)
CRATES = named("^[a-z][a-z0-9_-]{0,12}$", either(RANGE, closed({
    "version?": RANGE, "path?": TEXT, "git?": of("uri"), "features?": several(TEXT, 0, 2), "optional?": FLAG,
})))  # fmt: skip


def draft7(schema: Schema, **definitions: Schema) -> Schema:
    more: Schema = {"definitions": definitions} if definitions else {}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, **more}


def defined(name: str) -> Schema:
    return ref(name, "definitions")


MANIFESTS: dict[str, Schema] = {
    "package.json": draft7(obj({
        "name": NPM_NAME, "version": VERSION, "private?": FLAG, "license?": LICENCE, "author?": defined("person"),
        "scripts?": table(TEXT), "dependencies?": defined("dependencies"), "files?": several(TEXT, 0, 3),
        "engines?": obj({"node?": RANGE, "npm?": RANGE}), "type?": word("module", "commonjs"),
    }), person=PERSON, dependencies=DEPENDENCIES),
    "package.json, exports": draft7(obj({"exports": defined("entry")}), entry=either(
        text(r"^\./[a-z/.]{1,20}$"), {"type": "null"}, named("^(import|require|default)$", defined("entry")),
    )),
    "package.json, bin": obj({"name": NPM_NAME, "bin": either(TEXT, named("^[a-z-]{1,10}$", TEXT))}),
    "package.json, workspaces": obj({"workspaces": either(
        several(TEXT, 1, 3), closed({"packages": several(TEXT, 1, 3), "nohoist?": several(TEXT, 0, 2)}),
    )}),
    "package.json, repository": obj({"repository": either(
        text("^github:[a-z]{1,8}/[a-z]{1,8}$"), obj({"type": word("git"), "url": of("uri"), "directory?": TEXT}),
    ), "bugs?": either(of("uri"), obj({"email?": of("email")}))}),
    "package-lock.json": obj({"lockfileVersion": one(2, 3), "packages": table(obj({
        "version?": VERSION, "resolved?": of("uri"), "integrity?": text("^sha512-[A-Za-z0-9+/]{4,12}={0,2}$"), "dev?": FLAG,
    }))}),
    "composer.json": draft7(obj({
        "name": text("^[a-z0-9]{1,10}/[a-z0-9-]{1,12}$"), "type?": word("library", "project"), "require?": table(RANGE),
        "autoload?": obj({"psr-4?": table(either(TEXT, several(TEXT, 1, 2))), "files?": several(TEXT, 0, 2)}),
        "minimum-stability?": word("stable", "beta", "dev"),
    })),
    "Cargo.toml": obj({
        "package": obj({
            "name": text("^[a-zA-Z0-9_-]{1,16}$"), "version": VERSION, "edition?": word("2018", "2021", "2024"),
            "authors?": several(TEXT, 0, 2), "license?": LICENCE, "publish?": either(FLAG, several(TEXT, 0, 2)),
        }),
        "dependencies?": CRATES, "features?": table(several(TEXT, 0, 2)),
    }),
    "Cargo.toml, profile": named("^(dev|release|test)$", closed({
        "opt-level?": either(integer(0, 3), word("s", "z")), "debug?": either(FLAG, integer(0, 2)),
        "lto?": either(FLAG, word("thin", "fat", "off")), "panic?": word("unwind", "abort"),
    })),
    "pyproject.toml": obj({"project": closed({
        "name": text("^([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]{0,12}[A-Za-z0-9])$"), "version?": TEXT,
        "requires-python?": text("^>=3\\.[0-9]{1,2}$"), "dependencies?": several(TEXT, 0, 3),
        "readme?": either(TEXT, closed({"file": TEXT, "content-type": TEXT})), "dynamic?": several(word("version"), 0, 1),
        "optional-dependencies?": named("^[a-z]{1,8}$", several(TEXT, 0, 2)),
    })}),
    "pyproject.toml, build": obj({"build-system": closed({"requires": several(TEXT, 1, 3), "build-backend?": TEXT})}),
    "pyproject.toml, ruff": closed({
        "line-length?": integer(1, 320), "select?": several(text("^[A-Z]{1,4}[0-9]{0,3}$"), 0, 4), "fix?": FLAG,
        "per-file-ignores?": table(several(text("^[A-Z]{1,4}[0-9]{0,3}$"), 0, 2)),
    }),
    "Chart.yaml": obj({
        "apiVersion": word("v1", "v2"), "name": TEXT, "version": VERSION, "appVersion?": TEXT, "deprecated?": FLAG,
        "dependencies?": several(closed({"name": TEXT, "version": RANGE, "repository?": of("uri")}), 0, 2),
        "maintainers?": several(obj({"name": TEXT, "email?": of("email")}), 0, 2),
    }),
    "pubspec.yaml": obj({
        "name": text("^[a-z_][a-z0-9_]{0,12}$"), "environment": obj({"sdk": RANGE}),
        "dependencies?": table(either(RANGE, obj({"sdk": word("flutter")}), obj({"path": TEXT}))),
    }),
    "deno.json": draft7(closed({
        "compilerOptions?": obj({"strict?": FLAG, "jsx?": word("react", "preserve")}), "imports?": table(TEXT),
        "tasks?": named("^[a-z][a-z:_-]{0,10}$", either(TEXT, obj({"command": TEXT, "dependencies?": several(TEXT, 0, 2)}))),
        "lock?": either(FLAG, TEXT, closed({"path?": TEXT, "frozen?": FLAG})),
    })),
    "tsconfig.json": draft7(obj({
        "extends?": either(TEXT, several(TEXT, 1, 2)),
        "compilerOptions": obj({
            "target?": {"anyOf": [word("es5", "es2022", "esnext"), text("^[Ee][Ss]([356]|20(1[56789]|2[012]))$")]},
            "module?": word("commonjs", "nodenext"), "strict?": FLAG, "outDir?": TEXT, "lib?": several(TEXT, 0, 2),
            "paths?": table(several(TEXT, 1, 2)), "maxNodeModuleJsDepth?": INTEGER,
        }),
        "include?": several(TEXT, 0, 2),
    })),
    "tsconfig.json, files": draft7({"allOf": [
        obj({"compilerOptions?": table(either(FLAG, TEXT))}), obj({"files": several(TEXT, 1, 2)}),
        obj({"references?": several(obj({"path": TEXT}), 0, 2)}),
    ]}),
    "bower.json": draft7(obj({"name": text(maxLength=20), "main?": either(TEXT, several(TEXT, 1, 2)), "dependencies?": table(TEXT)})),
    "lerna.json": draft7(obj({"version": either(VERSION, one("independent")), "npmClient?": word("npm", "yarn", "pnpm")})),
    "turbo.json": draft7(obj({"pipeline": table(closed({
        "dependsOn?": several(TEXT, 0, 2), "outputs?": several(TEXT, 0, 2), "cache?": FLAG,
    }))})),
    "nx.json": obj({"targetDefaults": table(obj({"inputs?": several(either(TEXT, obj({"env": TEXT})), 0, 2), "cache?": FLAG}))}),
    ".eslintrc": draft7(obj({"root?": FLAG, "rules": table(defined("rule")), "env?": table(FLAG)}), level=either(
        integer(0, 2), word("off", "warn", "error"),
    ), rule=either(defined("level"), {"type": "array", "prefixItems": [defined("level")], "minItems": 1, "maxItems": 3})),
    ".prettierrc": draft7(obj({
        "printWidth?": integer(1, 200), "semi?": FLAG, "singleQuote?": FLAG,
        "endOfLine?": {"oneOf": [{"enum": ["auto"]}, {"enum": ["lf"]}, {"enum": ["crlf"]}]},
        "overrides?": several(obj({"files": either(TEXT, several(TEXT, 1, 2)), "options?": table()}), 0, 2),
    })),
    ".babelrc": draft7(obj({"presets?": several(either(TEXT, {
        "type": "array", "prefixItems": [TEXT, table()], "items": False, "minItems": 1,
    }), 0, 2)})),
    "renovate.json": draft7(obj({
        "extends?": several(TEXT, 0, 2), "schedule?": either(TEXT, several(TEXT, 1, 2)), "timezone?": TEXT,
        "packageRules?": several(obj({"matchPackageNames?": several(TEXT, 0, 2), "enabled?": FLAG, "automerge?": FLAG}), 0, 2),
        "prHourlyLimit?": integer(0),
    })),
    "conda's meta.yaml": obj({
        "package": obj({"name": text("^[a-z0-9_.-]{1,14}$"), "version": TEXT}), "build?": obj({"number?": integer(0), "noarch?": word("python")}),
        "requirements?": named("^(build|host|run)$", several(TEXT, 0, 2)),
        "source?": obj({"url": of("uri"), "sha256?": text("^[0-9a-f]{64}$")}),
    }),
    "Dockerfile's build arguments": obj({"args": named("^[A-Z_]{1,10}$", {"type": ["string", "number", "boolean"]}), "target?": TEXT}),
    "compose.yaml": obj({"services": named("^[a-z0-9._-]{1,8}$", obj({
        "image": TEXT, "ports?": several(either(integer(1, 65535), text("^[0-9]{2,5}:[0-9]{2,5}$")), 0, 2),
        "environment?": either(table(either(TEXT, NUMBER, {"type": "null"})), several(TEXT, 0, 2)),
        "restart?": word("no", "always", "on-failure"), "depends_on?": several(TEXT, 0, 2),
    }))}),
    "compose.yaml, limits": obj({"deploy": obj({"replicas?": integer(1, 10), "resources?": obj({"limits?": obj({
        "cpus?": either(text("^[0-9]\\.[0-9]{1,2}$"), number(0, 16)), "memory?": text("^[0-9]{1,4}[kmg]$"),
    })})})}),
    "go's module": obj({"module": text("^[a-z.]{3,12}(/[a-z]{1,8}){1,2}$"), "go": text("^1\\.[0-9]{1,2}$"), "require?": several(obj({
        "path": TEXT, "version": text("^v[0-9]\\.[0-9]{1,2}\\.[0-9]$"), "indirect?": FLAG,
    }), 0, 2)}),
    "Maven's coordinates": obj({
        "groupId": text("^[a-z]{2,4}(\\.[a-z]{2,8}){1,2}$"), "artifactId": text("^[a-z-]{2,12}$"), "version": TEXT,
        "scope?": word("compile", "test", "provided"), "exclusions?": several(obj({"groupId": TEXT, "artifactId": TEXT}), 0, 2),
    }),
    "NuGet's package": obj({"id": text("^[A-Z][A-Za-z.]{1,16}$"), "version": VERSION, "targets?": several(word("net8.0", "net9.0"), 1, 2), "packed": of("date-time")}),
    "app.json": draft7(obj({"name?": TEXT, "env?": table(either(TEXT, obj({
        "description?": TEXT, "required?": FLAG, "generator?": word("secret"),
    }))), "formation?": table(obj({"quantity?": integer(0, 9), "size?": TEXT})), "stack?": TEXT})),
    "vercel.json": draft7(closed({
        "redirects?": several(closed({"source": text(maxLength=20), "destination": TEXT, "permanent?": FLAG, "statusCode?": integer(100, 999)}), 0, 2),
        "headers?": several(obj({"source": TEXT, "headers": several(obj({"key": TEXT, "value": TEXT}), 1, 2)}), 0, 1),
        "trailingSlash?": FLAG,
    })),
    "web app manifest": draft7(obj({
        "name?": TEXT, "start_url?": TEXT, "display?": {"type": "string", "enum": ["fullscreen", "standalone"], "default": "browser"},
        "theme_color?": text("^#[0-9a-fA-F]{6}$"), "icons?": several(obj({"src": TEXT, "sizes?": text("^[0-9]{1,4}x[0-9]{1,4}$")}), 0, 2),
    })),
    "browser extension": draft7(obj({
        "manifest_version": one(2, 3), "name": text(maxLength=45), "version": text(r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$"),
        "permissions?": several(TEXT, uniqueItems=True), "homepage_url?": of("uri"),
    })),
    "CITATION.cff": obj({
        "cff-version": one("1.2.0"), "title": TEXT, "doi?": text("^10\\.[0-9]{4}/[a-z0-9]{1,10}$"), "date-released?": of("date"),
        "authors": several(either(closed({"name": TEXT}), closed({"given-names": TEXT, "family-names": TEXT})), 1, 2),
    }),
    "tsconfig.json, both ways": draft7(obj({"composite": FLAG, "declaration?": FLAG}, **{
        "if": {"properties": {"composite": {"const": True}}}, "then": {"required": ["declaration"]},
    })),
    "package.json, peers": draft7(obj({"peerDependencies?": table(TEXT), "peerDependenciesMeta?": table()}, dependencies={
        "peerDependenciesMeta": ["peerDependencies"],
    })),
    "package.json, keywords": draft7(obj({"keywords": several(TEXT, 0, 4, uniqueItems=True)})),
    "bower.json, not private": draft7(obj({"name": TEXT, "private?": {"not": {"const": True}}})),
}  # fmt: skip


def _opened(schema: Any) -> Any:
    return all_closed(schema)


SCHEMAS: dict[str, Schema] = {
    **MANIFESTS,
    **{f"{name}, closed": _opened(schema) for name, schema in MANIFESTS.items() if _opened(schema) != schema},
}
