"""Schemas of package manifests, as in schema catalogues: draft-07, definitions, keys by pattern, many alternatives."""

# Each schema is data and stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from tests.schema_corpus.build import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    TEXT,
    Schema,
    any_of,
    array,
    closed_obj,
    enum,
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
)  # fmt: skip

VERSION = text(r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z0-9]{1,6})?$")
RANGE = text(r"^[\^~]?[0-9]{1,2}(\.[0-9]{1,2}){0,2}$")
NPM_NAME = text("^(@[a-z0-9-]{1,8}/)?[a-z0-9-]{1,12}$")
LICENCE = string_enum("MIT", "Apache-2.0", "BSD-3-Clause", "MPL-2.0")
PERSON = any_of(TEXT, obj({"name": TEXT, "email?": string_of("email"), "url?": string_of("uri")}))
DEPENDENCIES = pattern_map("^(@[a-z0-9-]{1,8}/)?[a-z0-9-]{1,12}$", RANGE)
CRATES = pattern_map("^[a-z][a-z0-9_-]{0,12}$", any_of(RANGE, closed_obj({
    "version?": RANGE, "path?": TEXT, "git?": string_of("uri"), "features?": array(TEXT, 0, 2), "optional?": BOOLEAN,
})))  # fmt: skip


def draft7(schema: Schema, **definitions: Schema) -> Schema:
    more: Schema = {"definitions": definitions} if definitions else {}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, **more}


def defined(name: str) -> Schema:
    return ref(name, "definitions")


MANIFESTS: dict[str, Schema] = {
    "package.json": draft7(obj({
        "name": NPM_NAME, "version": VERSION, "private?": BOOLEAN, "license?": LICENCE, "author?": defined("person"),
        "scripts?": map_of(TEXT), "dependencies?": defined("dependencies"), "files?": array(TEXT, 0, 3),
        "engines?": obj({"node?": RANGE, "npm?": RANGE}), "type?": string_enum("module", "commonjs"),
    }), person=PERSON, dependencies=DEPENDENCIES),
    "package.json, exports": draft7(obj({"exports": defined("entry")}), entry=any_of(
        text(r"^\./[a-z/.]{1,20}$"), {"type": "null"}, pattern_map("^(import|require|default)$", defined("entry")),
    )),
    "package.json, bin": obj({"name": NPM_NAME, "bin": any_of(TEXT, pattern_map("^[a-z-]{1,10}$", TEXT))}),
    "package.json, workspaces": obj({"workspaces": any_of(
        array(TEXT, 1, 3), closed_obj({"packages": array(TEXT, 1, 3), "nohoist?": array(TEXT, 0, 2)}),
    )}),
    "package.json, repository": obj({"repository": any_of(
        text("^github:[a-z]{1,8}/[a-z]{1,8}$"), obj({"type": string_enum("git"), "url": string_of("uri"), "directory?": TEXT}),
    ), "bugs?": any_of(string_of("uri"), obj({"email?": string_of("email")}))}),
    "package-lock.json": obj({"lockfileVersion": enum(2, 3), "packages": map_of(obj({
        "version?": VERSION, "resolved?": string_of("uri"), "integrity?": text("^sha512-[A-Za-z0-9+/]{4,12}={0,2}$"), "dev?": BOOLEAN,
    }))}),
    "composer.json": draft7(obj({
        "name": text("^[a-z0-9]{1,10}/[a-z0-9-]{1,12}$"), "type?": string_enum("library", "project"), "require?": map_of(RANGE),
        "autoload?": obj({"psr-4?": map_of(any_of(TEXT, array(TEXT, 1, 2))), "files?": array(TEXT, 0, 2)}),
        "minimum-stability?": string_enum("stable", "beta", "dev"),
    })),
    "Cargo.toml": obj({
        "package": obj({
            "name": text("^[a-zA-Z0-9_-]{1,16}$"), "version": VERSION, "edition?": string_enum("2018", "2021", "2024"),
            "authors?": array(TEXT, 0, 2), "license?": LICENCE, "publish?": any_of(BOOLEAN, array(TEXT, 0, 2)),
        }),
        "dependencies?": CRATES, "features?": map_of(array(TEXT, 0, 2)),
    }),
    "Cargo.toml, profile": pattern_map("^(dev|release|test)$", closed_obj({
        "opt-level?": any_of(integer(0, 3), string_enum("s", "z")), "debug?": any_of(BOOLEAN, integer(0, 2)),
        "lto?": any_of(BOOLEAN, string_enum("thin", "fat", "off")), "panic?": string_enum("unwind", "abort"),
    })),
    "pyproject.toml": obj({"project": closed_obj({
        "name": text("^([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]{0,12}[A-Za-z0-9])$"), "version?": TEXT,
        "requires-python?": text("^>=3\\.[0-9]{1,2}$"), "dependencies?": array(TEXT, 0, 3),
        "readme?": any_of(TEXT, closed_obj({"file": TEXT, "content-type": TEXT})), "dynamic?": array(string_enum("version"), 0, 1),
        "optional-dependencies?": pattern_map("^[a-z]{1,8}$", array(TEXT, 0, 2)),
    })}),
    "pyproject.toml, build": obj({"build-system": closed_obj({"requires": array(TEXT, 1, 3), "build-backend?": TEXT})}),
    "pyproject.toml, ruff": closed_obj({
        "line-length?": integer(1, 320), "select?": array(text("^[A-Z]{1,4}[0-9]{0,3}$"), 0, 4), "fix?": BOOLEAN,
        "per-file-ignores?": map_of(array(text("^[A-Z]{1,4}[0-9]{0,3}$"), 0, 2)),
    }),
    "Chart.yaml": obj({
        "apiVersion": string_enum("v1", "v2"), "name": TEXT, "version": VERSION, "appVersion?": TEXT, "deprecated?": BOOLEAN,
        "dependencies?": array(closed_obj({"name": TEXT, "version": RANGE, "repository?": string_of("uri")}), 0, 2),
        "maintainers?": array(obj({"name": TEXT, "email?": string_of("email")}), 0, 2),
    }),
    "pubspec.yaml": obj({
        "name": text("^[a-z_][a-z0-9_]{0,12}$"), "environment": obj({"sdk": RANGE}),
        "dependencies?": map_of(any_of(RANGE, obj({"sdk": string_enum("flutter")}), obj({"path": TEXT}))),
    }),
    "deno.json": draft7(closed_obj({
        "compilerOptions?": obj({"strict?": BOOLEAN, "jsx?": string_enum("react", "preserve")}), "imports?": map_of(TEXT),
        "tasks?": pattern_map("^[a-z][a-z:_-]{0,10}$", any_of(TEXT, obj({"command": TEXT, "dependencies?": array(TEXT, 0, 2)}))),
        "lock?": any_of(BOOLEAN, TEXT, closed_obj({"path?": TEXT, "frozen?": BOOLEAN})),
    })),
    "tsconfig.json": draft7(obj({
        "extends?": any_of(TEXT, array(TEXT, 1, 2)),
        "compilerOptions": obj({
            "target?": {"anyOf": [string_enum("es5", "es2022", "esnext"), text("^[Ee][Ss]([356]|20(1[56789]|2[012]))$")]},
            "module?": string_enum("commonjs", "nodenext"), "strict?": BOOLEAN, "outDir?": TEXT, "lib?": array(TEXT, 0, 2),
            "paths?": map_of(array(TEXT, 1, 2)), "maxNodeModuleJsDepth?": INTEGER,
        }),
        "include?": array(TEXT, 0, 2),
    })),
    "tsconfig.json, files": draft7({"allOf": [
        obj({"compilerOptions?": map_of(any_of(BOOLEAN, TEXT))}), obj({"files": array(TEXT, 1, 2)}),
        obj({"references?": array(obj({"path": TEXT}), 0, 2)}),
    ]}),
    "bower.json": draft7(obj({"name": text(maxLength=20), "main?": any_of(TEXT, array(TEXT, 1, 2)), "dependencies?": map_of(TEXT)})),
    "lerna.json": draft7(obj({"version": any_of(VERSION, enum("independent")), "npmClient?": string_enum("npm", "yarn", "pnpm")})),
    "turbo.json": draft7(obj({"pipeline": map_of(closed_obj({
        "dependsOn?": array(TEXT, 0, 2), "outputs?": array(TEXT, 0, 2), "cache?": BOOLEAN,
    }))})),
    "nx.json": obj({"targetDefaults": map_of(obj({"inputs?": array(any_of(TEXT, obj({"env": TEXT})), 0, 2), "cache?": BOOLEAN}))}),
    ".eslintrc": draft7(obj({"root?": BOOLEAN, "rules": map_of(defined("rule")), "env?": map_of(BOOLEAN)}), level=any_of(
        integer(0, 2), string_enum("off", "warn", "error"),
    ), rule=any_of(defined("level"), {"type": "array", "prefixItems": [defined("level")], "minItems": 1, "maxItems": 3})),
    ".prettierrc": draft7(obj({
        "printWidth?": integer(1, 200), "semi?": BOOLEAN, "singleQuote?": BOOLEAN,
        "endOfLine?": {"oneOf": [{"enum": ["auto"]}, {"enum": ["lf"]}, {"enum": ["crlf"]}]},
        "overrides?": array(obj({"files": any_of(TEXT, array(TEXT, 1, 2)), "options?": map_of()}), 0, 2),
    })),
    ".babelrc": draft7(obj({"presets?": array(any_of(TEXT, {
        "type": "array", "prefixItems": [TEXT, map_of()], "items": False, "minItems": 1,
    }), 0, 2)})),
    "renovate.json": draft7(obj({
        "extends?": array(TEXT, 0, 2), "schedule?": any_of(TEXT, array(TEXT, 1, 2)), "timezone?": TEXT,
        "packageRules?": array(obj({"matchPackageNames?": array(TEXT, 0, 2), "enabled?": BOOLEAN, "automerge?": BOOLEAN}), 0, 2),
        "prHourlyLimit?": integer(0),
    })),
    "conda's meta.yaml": obj({
        "package": obj({"name": text("^[a-z0-9_.-]{1,14}$"), "version": TEXT}), "build?": obj({"number?": integer(0), "noarch?": string_enum("python")}),
        "requirements?": pattern_map("^(build|host|run)$", array(TEXT, 0, 2)),
        "source?": obj({"url": string_of("uri"), "sha256?": text("^[0-9a-f]{64}$")}),
    }),
    "Dockerfile's build arguments": obj({"args": pattern_map("^[A-Z_]{1,10}$", {"type": ["string", "number", "boolean"]}), "target?": TEXT}),
    "compose.yaml": obj({"services": pattern_map("^[a-z0-9._-]{1,8}$", obj({
        "image": TEXT, "ports?": array(any_of(integer(1, 65535), text("^[0-9]{2,5}:[0-9]{2,5}$")), 0, 2),
        "environment?": any_of(map_of(any_of(TEXT, NUMBER, {"type": "null"})), array(TEXT, 0, 2)),
        "restart?": string_enum("no", "always", "on-failure"), "depends_on?": array(TEXT, 0, 2),
    }))}),
    "compose.yaml, limits": obj({"deploy": obj({"replicas?": integer(1, 10), "resources?": obj({"limits?": obj({
        "cpus?": any_of(text("^[0-9]\\.[0-9]{1,2}$"), number(0, 16)), "memory?": text("^[0-9]{1,4}[kmg]$"),
    })})})}),
    "go's module": obj({"module": text("^[a-z.]{3,12}(/[a-z]{1,8}){1,2}$"), "go": text("^1\\.[0-9]{1,2}$"), "require?": array(obj({
        "path": TEXT, "version": text("^v[0-9]\\.[0-9]{1,2}\\.[0-9]$"), "indirect?": BOOLEAN,
    }), 0, 2)}),
    "Maven's coordinates": obj({
        "groupId": text("^[a-z]{2,4}(\\.[a-z]{2,8}){1,2}$"), "artifactId": text("^[a-z-]{2,12}$"), "version": TEXT,
        "scope?": string_enum("compile", "test", "provided"), "exclusions?": array(obj({"groupId": TEXT, "artifactId": TEXT}), 0, 2),
    }),
    "NuGet's package": obj({"id": text("^[A-Z][A-Za-z.]{1,16}$"), "version": VERSION, "targets?": array(string_enum("net8.0", "net9.0"), 1, 2), "packed": string_of("date-time")}),
    "app.json": draft7(obj({"name?": TEXT, "env?": map_of(any_of(TEXT, obj({
        "description?": TEXT, "required?": BOOLEAN, "generator?": string_enum("secret"),
    }))), "formation?": map_of(obj({"quantity?": integer(0, 9), "size?": TEXT})), "stack?": TEXT})),
    "vercel.json": draft7(closed_obj({
        "redirects?": array(closed_obj({"source": text(maxLength=20), "destination": TEXT, "permanent?": BOOLEAN, "statusCode?": integer(100, 999)}), 0, 2),
        "headers?": array(obj({"source": TEXT, "headers": array(obj({"key": TEXT, "value": TEXT}), 1, 2)}), 0, 1),
        "trailingSlash?": BOOLEAN,
    })),
    "web app manifest": draft7(obj({
        "name?": TEXT, "start_url?": TEXT, "display?": {"type": "string", "enum": ["fullscreen", "standalone"], "default": "browser"},
        "theme_color?": text("^#[0-9a-fA-F]{6}$"), "icons?": array(obj({"src": TEXT, "sizes?": text("^[0-9]{1,4}x[0-9]{1,4}$")}), 0, 2),
    })),
    "browser extension": draft7(obj({
        "manifest_version": enum(2, 3), "name": text(maxLength=45), "version": text(r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$"),
        "permissions?": array(TEXT, uniqueItems=True), "homepage_url?": string_of("uri"),
    })),
    "CITATION.cff": obj({
        "cff-version": enum("1.2.0"), "title": TEXT, "doi?": text("^10\\.[0-9]{4}/[a-z0-9]{1,10}$"), "date-released?": string_of("date"),
        "authors": array(any_of(closed_obj({"name": TEXT}), closed_obj({"given-names": TEXT, "family-names": TEXT})), 1, 2),
    }),
    "tsconfig.json, both ways": draft7(obj({"composite": BOOLEAN, "declaration?": BOOLEAN}, **{
        "if": {"properties": {"composite": {"const": True}}}, "then": {"required": ["declaration"]},
    })),
    "package.json, peers": draft7(obj({"peerDependencies?": map_of(TEXT), "peerDependenciesMeta?": map_of()}, dependencies={
        "peerDependenciesMeta": ["peerDependencies"],
    })),
    "package.json, keywords": draft7(obj({"keywords": array(TEXT, 0, 4, uniqueItems=True)})),
    "bower.json, not private": draft7(obj({"name": TEXT, "private?": {"not": {"const": True}}})),
}  # fmt: skip


SCHEMAS: dict[str, Schema] = {
    **MANIFESTS,
    **{
        f"{name}, closed": with_closed_objects(schema)
        for name, schema in MANIFESTS.items()
        if with_closed_objects(schema) != schema
    },
}
