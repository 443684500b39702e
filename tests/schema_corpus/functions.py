"""Arguments of functions, as tool calls have them; each also in the strict form that services ask for."""

# Data: a schema stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from tests.schema_corpus.build import (
    FLAG,
    INTEGER,
    NUMBER,
    TEXT,
    Schema,
    closed,
    either,
    integer,
    named,
    number,
    obj,
    of,
    one,
    several,
    strict,
    table,
    text,
    word,
)  # fmt: skip

PLACE = obj({"lat": number(-90, 90), "lon": number(-180, 180)})
MONEY = obj({"amount": number(0, 1_000_000), "currency": text("^[A-Z]{3}$")})
PERSON = obj({"name": text(minLength=1, maxLength=40), "email?": of("email"), "age?": integer(0, 150)})
SPAN = obj({"start": of("date"), "end": of("date")})

FUNCTIONS: dict[str, Schema] = {
    "get_weather": obj({"city": TEXT, "unit?": word("celsius", "fahrenheit"), "days?": integer(1, 14)}),
    "get_weather_at": obj({"place": PLACE, "hourly?": FLAG}),
    "send_email": obj({"to": several(of("email"), 1, 3), "subject": text(maxLength=60), "body": TEXT, "urgent?": FLAG}),
    "create_event": obj({"title": TEXT, "when": of("date-time"), "minutes?": integer(5, 480, multipleOf=5)}),
    "find_flights": obj({
        "from": text("^[A-Z]{3}$"), "to": text("^[A-Z]{3}$"), "day": of("date"), "seats?": integer(1, 9),
        "cabin?": word("economy", "premium", "business", "first"),
    }),
    "book_hotel": obj({"hotel_id": of("uuid"), "stay": SPAN, "guests": several(PERSON, 1, 4)}),
    "transfer_money": obj({"account": text("^[A-Z]{2}[0-9]{2}[A-Z0-9]{4,12}$"), "sum": MONEY, "note?": text(maxLength=30)}),
    "convert_currency": obj({"sum": MONEY, "into": text("^[A-Z]{3}$")}),
    "search_products": obj({
        "query": TEXT, "filters?": obj({"price?": obj({"min?": NUMBER, "max?": NUMBER}), "brands?": several(TEXT, 0, 5)}),
        "sort?": word("price", "-price", "rating"), "page?": integer(1),
    }),
    "add_to_cart": obj({"sku": text("^[A-Z]{3}-[0-9]{4}$"), "count": integer(1, 99)}),
    "track_parcel": obj({"code": text("^[0-9A-Z]{8,12}$"), "carrier?": word("dhl", "ups", "post")}),
    "set_timer": obj({"length": of("duration"), "label?": text(maxLength=20)}),
    "set_alarm": obj({"at": of("time"), "weekdays?": several(word("mo", "tu", "we", "th", "fr", "sa", "su"), 1, 7)}),
    "turn_on_lights": obj({"room": word("kitchen", "hall", "bath"), "level?": integer(0, 100), "colour?": text("^#[0-9a-f]{6}$")}),
    "set_temperature": obj({"room": TEXT, "degrees": number(5, 30, multipleOf=0.5)}),
    "play_music": obj({"what": either(obj({"song": TEXT}), obj({"artist": TEXT}), obj({"mood": word("calm", "happy")}))}),
    "translate": obj({"text": TEXT, "into": text("^[a-z]{2}(-[A-Z]{2})?$"), "formal?": FLAG}),
    "summarise": obj({"url": of("uri"), "words?": integer(20, 500)}),
    "run_sql": obj({"query": text("^SELECT [a-z_, ]{1,30} FROM [a-z_]{1,15}$"), "limit?": integer(1, 1000)}),
    "insert_row": obj({"table": text("^[a-z_]{1,20}$"), "values": table(either(TEXT, NUMBER, FLAG))}),
    "read_file": obj({"path": text("^/[a-z0-9_./-]{1,40}$"), "lines?": several(integer(1), 2, 2)}),
    "edit_file": obj({"path": TEXT, "edits": several(obj({"line": integer(1), "old": TEXT, "new": TEXT}), 1, 3)}),
    "run_command": obj({"argv": several(TEXT, 1, 6), "environment?": named("^[A-Z_]{1,12}$", TEXT), "timeout?": number(0.1, 600)}),
    "git_commit": obj({"message": text(minLength=3, maxLength=50), "files": several(TEXT, 1, 4), "amend?": FLAG}),
    "open_issue": obj({"repo": text("^[a-z]{1,12}/[a-z]{1,12}$"), "title": TEXT, "labels?": several(TEXT, 0, 4)}),
    "calculate": obj({"op": word("+", "-", "*", "/"), "a": NUMBER, "b": NUMBER}),
    "solve": obj({"matrix": several(several(integer(-9, 9), 2, 2), 2, 2), "vector": several(integer(-9, 9), 2, 2)}),
    "plot": obj({"kind": word("line", "bar", "pie"), "points": several(obj({"x": NUMBER, "y": NUMBER}), 1, 5), "title?": TEXT}),
    "train_model": obj({
        "algorithm": word("tree", "forest", "linear"), "rate?": number(0, 1), "epochs?": integer(1, 100),
        "layers?": several(integer(1, 512), 1, 4), "seed?": integer(0),
    }),
    "image": obj({"prompt": text(maxLength=80), "size": word("256x256", "512x512"), "count?": integer(1, 4)}),
    "ping": closed({}),
    "lookup_ip": obj({"address": either(of("ipv4"), of("ipv6"))}),
    "resolve_host": obj({"host": of("hostname"), "record?": word("A", "AAAA", "MX")}),
    "http_request": obj({
        "method": word("GET", "POST"), "url": of("uri"), "headers?": table(TEXT), "body?": either(TEXT, table(TEXT)),
    }),
    "create_user": obj({"person": PERSON, "roles": several(word("admin", "editor", "reader"), 1, 3), "active?": FLAG}),
    "set_password": obj({"user": of("uuid"), "password": text("^[A-Za-z0-9!?]{8,16}$")}),
    "grant": obj({"user": TEXT, "rights": obj({"read": FLAG, "write": FLAG, "share": FLAG})}),
    "schedule": obj({"cron": text(r"^([0-9]{1,2}|\*) ([0-9]{1,2}|\*) \* \* ([0-6]|\*)$"), "job": TEXT}),
    "place_order": obj({
        "items": several(obj({"sku": TEXT, "count": integer(1), "price?": number(0)}), 1, 3),
        "ship_to": obj({"street": TEXT, "town": TEXT, "postcode": text("^[0-9]{5}$"), "country?": text("^[A-Z]{2}$")}),
    }),
    "review": obj({"stars": one(1, 2, 3, 4, 5), "text?": text(maxLength=100), "recommend": FLAG}),
    "classify": obj({"label": word("spam", "ham"), "score": number(0, 1)}),
    "extract_people": obj({"people": several(PERSON, 0, 3)}),
    "rank": obj({"scores": several(number(0, 10), 3, 3)}),
    "choose_seat": obj({"row": integer(1, 40), "seat": word(*"ABCDEF"), "window?": one(True)}),
    "log_meal": obj({"dish": TEXT, "kcal": integer(0, 3000), "parts?": obj({"fat?": NUMBER, "protein?": NUMBER})}),
    "route": obj({"stops": several(either(PLACE, TEXT), 2, 4), "by": word("car", "foot", "bike")}),
    "poll": obj({"question": TEXT, "options": several(text(minLength=1, maxLength=15), 2, 4), "closes?": of("date-time")}),
    "memory": obj({"key": text("^[a-z]+(\\.[a-z]+)*$", maxLength=20), "value": {}}),
    "patch": obj({"ops": several(obj({"op": word("add", "remove"), "path": text("^(/[a-z]+)+$", maxLength=20)}), 1, 3)}),
    "final_answer": obj({"answer": {"type": ["string", "number", "boolean", "null"]}}),
    "measure": obj({"value": number(exclusiveMinimum=0), "error?": number(0), "unit": word("m", "kg", "s")}),
    "price": obj({"net": number(0, 1000, multipleOf=0.01), "vat?": one(0.07, 0.19)}),
    "tags": obj({"add?": several(TEXT, uniqueItems=True), "remove?": several(TEXT, uniqueItems=True)}),
    "vote": obj({"for": INTEGER, "against": INTEGER}, minProperties=1),
}  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    **FUNCTIONS,
    **{f"{name}, strict": strict(schema) for name, schema in FUNCTIONS.items()},
}
