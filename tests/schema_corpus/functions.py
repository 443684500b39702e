"""Schemas of the arguments of functions, as tools have them; each also in the strict subset of services."""

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
    string_enum,
    string_of,
    text,
    to_strict,
)  # fmt: skip

PLACE = obj({"lat": number(-90, 90), "lon": number(-180, 180)})
MONEY = obj({"amount": number(0, 1_000_000), "currency": text("^[A-Z]{3}$")})
PERSON = obj({"name": text(minLength=1, maxLength=40), "email?": string_of("email"), "age?": integer(0, 150)})
SPAN = obj({"start": string_of("date"), "end": string_of("date")})

FUNCTIONS: dict[str, Schema] = {
    "get_weather": obj({"city": TEXT, "unit?": string_enum("celsius", "fahrenheit"), "days?": integer(1, 14)}),
    "get_weather_at": obj({"place": PLACE, "hourly?": BOOLEAN}),
    "send_email": obj({"to": array(string_of("email"), 1, 3), "subject": text(maxLength=60), "body": TEXT, "urgent?": BOOLEAN}),
    "create_event": obj({"title": TEXT, "when": string_of("date-time"), "minutes?": integer(5, 480, multipleOf=5)}),
    "find_flights": obj({
        "from": text("^[A-Z]{3}$"), "to": text("^[A-Z]{3}$"), "day": string_of("date"), "seats?": integer(1, 9),
        "cabin?": string_enum("economy", "premium", "business", "first"),
    }),
    "book_hotel": obj({"hotel_id": string_of("uuid"), "stay": SPAN, "guests": array(PERSON, 1, 4)}),
    "transfer_money": obj({"account": text("^[A-Z]{2}[0-9]{2}[A-Z0-9]{4,12}$"), "sum": MONEY, "note?": text(maxLength=30)}),
    "convert_currency": obj({"sum": MONEY, "into": text("^[A-Z]{3}$")}),
    "search_products": obj({
        "query": TEXT, "filters?": obj({"price?": obj({"min?": NUMBER, "max?": NUMBER}), "brands?": array(TEXT, 0, 5)}),
        "sort?": string_enum("price", "-price", "rating"), "page?": integer(1),
    }),
    "add_to_cart": obj({"sku": text("^[A-Z]{3}-[0-9]{4}$"), "count": integer(1, 99)}),
    "track_parcel": obj({"code": text("^[0-9A-Z]{8,12}$"), "carrier?": string_enum("dhl", "ups", "post")}),
    "set_timer": obj({"length": string_of("duration"), "label?": text(maxLength=20)}),
    "set_alarm": obj({"at": string_of("time"), "weekdays?": array(string_enum("mo", "tu", "we", "th", "fr", "sa", "su"), 1, 7)}),
    "turn_on_lights": obj({"room": string_enum("kitchen", "hall", "bath"), "level?": integer(0, 100), "colour?": text("^#[0-9a-f]{6}$")}),
    "set_temperature": obj({"room": TEXT, "degrees": number(5, 30, multipleOf=0.5)}),
    "play_music": obj({"what": any_of(obj({"song": TEXT}), obj({"artist": TEXT}), obj({"mood": string_enum("calm", "happy")}))}),
    "translate": obj({"text": TEXT, "into": text("^[a-z]{2}(-[A-Z]{2})?$"), "formal?": BOOLEAN}),
    "summarise": obj({"url": string_of("uri"), "words?": integer(20, 500)}),
    "run_sql": obj({"query": text("^SELECT [a-z_, ]{1,30} FROM [a-z_]{1,15}$"), "limit?": integer(1, 1000)}),
    "insert_row": obj({"table": text("^[a-z_]{1,20}$"), "values": map_of(any_of(TEXT, NUMBER, BOOLEAN))}),
    "read_file": obj({"path": text("^/[a-z0-9_./-]{1,40}$"), "lines?": array(integer(1), 2, 2)}),
    "edit_file": obj({"path": TEXT, "edits": array(obj({"line": integer(1), "old": TEXT, "new": TEXT}), 1, 3)}),
    "run_command": obj({"argv": array(TEXT, 1, 6), "environment?": pattern_map("^[A-Z_]{1,12}$", TEXT), "timeout?": number(0.1, 600)}),
    "git_commit": obj({"message": text(minLength=3, maxLength=50), "files": array(TEXT, 1, 4), "amend?": BOOLEAN}),
    "open_issue": obj({"repo": text("^[a-z]{1,12}/[a-z]{1,12}$"), "title": TEXT, "labels?": array(TEXT, 0, 4)}),
    "calculate": obj({"op": string_enum("+", "-", "*", "/"), "a": NUMBER, "b": NUMBER}),
    "solve": obj({"matrix": array(array(integer(-9, 9), 2, 2), 2, 2), "vector": array(integer(-9, 9), 2, 2)}),
    "plot": obj({"kind": string_enum("line", "bar", "pie"), "points": array(obj({"x": NUMBER, "y": NUMBER}), 1, 5), "title?": TEXT}),
    "train_model": obj({
        "algorithm": string_enum("tree", "forest", "linear"), "rate?": number(0, 1), "epochs?": integer(1, 100),
        "layers?": array(integer(1, 512), 1, 4), "seed?": integer(0),
    }),
    "image": obj({"prompt": text(maxLength=80), "size": string_enum("256x256", "512x512"), "count?": integer(1, 4)}),
    "ping": closed_obj({}),
    "lookup_ip": obj({"address": any_of(string_of("ipv4"), string_of("ipv6"))}),
    "resolve_host": obj({"host": string_of("hostname"), "record?": string_enum("A", "AAAA", "MX")}),
    "http_request": obj({
        "method": string_enum("GET", "POST"), "url": string_of("uri"), "headers?": map_of(TEXT), "body?": any_of(TEXT, map_of(TEXT)),
    }),
    "create_user": obj({"person": PERSON, "roles": array(string_enum("admin", "editor", "reader"), 1, 3), "active?": BOOLEAN}),
    "set_password": obj({"user": string_of("uuid"), "password": text("^[A-Za-z0-9!?]{8,16}$")}),
    "grant": obj({"user": TEXT, "rights": obj({"read": BOOLEAN, "write": BOOLEAN, "share": BOOLEAN})}),
    "schedule": obj({"cron": text(r"^([0-9]{1,2}|\*) ([0-9]{1,2}|\*) \* \* ([0-6]|\*)$"), "job": TEXT}),
    "place_order": obj({
        "items": array(obj({"sku": TEXT, "count": integer(1), "price?": number(0)}), 1, 3),
        "ship_to": obj({"street": TEXT, "town": TEXT, "postcode": text("^[0-9]{5}$"), "country?": text("^[A-Z]{2}$")}),
    }),
    "review": obj({"stars": enum(1, 2, 3, 4, 5), "text?": text(maxLength=100), "recommend": BOOLEAN}),
    "classify": obj({"label": string_enum("spam", "ham"), "score": number(0, 1)}),
    "extract_people": obj({"people": array(PERSON, 0, 3)}),
    "rank": obj({"scores": array(number(0, 10), 3, 3)}),
    "choose_seat": obj({"row": integer(1, 40), "seat": string_enum(*"ABCDEF"), "window?": enum(True)}),
    "log_meal": obj({"dish": TEXT, "kcal": integer(0, 3000), "parts?": obj({"fat?": NUMBER, "protein?": NUMBER})}),
    "route": obj({"stops": array(any_of(PLACE, TEXT), 2, 4), "by": string_enum("car", "foot", "bike")}),
    "poll": obj({"question": TEXT, "options": array(text(minLength=1, maxLength=15), 2, 4), "closes?": string_of("date-time")}),
    "memory": obj({"key": text("^[a-z]+(\\.[a-z]+)*$", maxLength=20), "value": {}}),
    "patch": obj({"ops": array(obj({"op": string_enum("add", "remove"), "path": text("^(/[a-z]+)+$", maxLength=20)}), 1, 3)}),
    "final_answer": obj({"answer": {"type": ["string", "number", "boolean", "null"]}}),
    "measure": obj({"value": number(exclusiveMinimum=0), "error?": number(0), "unit": string_enum("m", "kg", "s")}),
    "price": obj({"net": number(0, 1000, multipleOf=0.01), "vat?": enum(0.07, 0.19)}),
    "tags": obj({"add?": array(TEXT, uniqueItems=True), "remove?": array(TEXT, uniqueItems=True)}),
    "vote": obj({"for": INTEGER, "against": INTEGER}, minProperties=1),
}  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    **FUNCTIONS,
    **{f"{name}, strict": to_strict(schema) for name, schema in FUNCTIONS.items()},
}
