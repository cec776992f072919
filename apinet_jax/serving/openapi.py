"""The OpenAPI document of a service."""

from typing import Any

import apinet_jax

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_MAYBE_TEXT, _MAYBE_NUMBER = {"type": ["string", "null"]}, {"type": ["number", "null"]}
_ERROR = {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}
_REFUSED = {
    400: "The request is wrong.",
    403: "It comes from a page of another server.",
    408: "The body was sent too slowly.",
    413: "The body or the photo is too large.",
    415: "This is no photo.",
    422: "The photo cannot be read, or has no such answer.",
    500: "The server failed.",
    503: "Too many requests wait; Retry-After says when to try again.",
}


def describe(about: dict[str, Any]) -> dict[str, Any]:
    """Return the document.

    Args:
        about: What the service says of its model.
    """
    named = _object(name=_TEXT, probability=_NUMBER)
    provenance = {"$ref": "#/components/schemas/Provenance"}
    row = _object(
        photo=_MAYBE_TEXT,
        answer=_TEXT,
        level=_TEXT,
        probability=_MAYBE_NUMBER,
        reason=_MAYBE_TEXT,
        score=_MAYBE_NUMBER,
        error=_MAYBE_TEXT,
        classes={"type": "array", "items": named},
    )
    row["required"] = ["photo", "error", "classes"]
    maps = _object(photo=_TEXT, own_gate=_TEXT, other_gate=_TEXT)
    exemplar = _object(class_name=_TEXT, similarity=_NUMBER, photo=_TEXT)
    schemas = {
        "Provenance": _object(
            step={"type": "integer"}, hash=_TEXT, version=_TEXT, temperature=_NUMBER
        ),
        "Prediction": _object(photos={"type": "array", "items": row}, provenance=provenance),
        "Comparison": _object(
            same=_MAYBE_NUMBER,
            score=_NUMBER,
            prior=_NUMBER,
            class_1=named,
            class_2=named,
            calibration=_TEXT,
            maps={"type": "array", "items": maps},
            provenance=provenance,
        ),
        "Explanation": _object(
            predicted=_TEXT,
            against=_TEXT,
            probability=_NUMBER,
            rival_probability=_NUMBER,
            difference=_NUMBER,
            bias=_NUMBER,
            bias_source=_TEXT,
            contrast={"type": "array", "items": {"type": "array", "items": _NUMBER}},
            photo=_TEXT,
            map=_TEXT,
            exemplars={"type": "array", "items": exemplar},
            no_exemplars=_MAYBE_TEXT,
            provenance=provenance,
        ),
        "Error": _ERROR,
    }
    top = _parameter("top", "Classes to list of each photo.", {"type": "integer", "minimum": 1})
    prior = _parameter("prior", "Share of pairs of one class among yours.", _NUMBER)
    against = _parameter("against", "The rival class; the most probable one by default.", _TEXT)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{len(about['class_names'])} classes, {about['trunk']}",
            "version": apinet_jax.__version__,
            "description": "Names, compares and explains photos.",
        },
        "paths": {
            "/v1/predict": _post("predict", "Name photos.", "Prediction", [top], single=True),
            "/v1/compare": _post("compare", "Do two photos show one class?", "Comparison", [prior]),
            "/v1/explain": _post(
                "explain",
                "Why this class, and not that one?",
                "Explanation",
                [against],
                single=True,
            ),
            "/v1/model": _get("model", "What the model is.", {"type": "object"}),
            "/healthz": _get("health", "Whether the server answers.", {"type": "object"}),
        },
        "components": {"schemas": schemas},
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _get(name: str, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    answer = {"description": summary, "content": _json(schema)}
    return {"get": {"operationId": name, "summary": summary, "responses": {"200": answer}}}


def _post(
    name: str, summary: str, schema: str, parameters: list[Any], single: bool = False
) -> dict[str, Any]:
    binary = {"type": "string", "contentMediaType": "image/*"}
    form = _object(photo={"type": "array", "items": binary})
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if single:
        content |= {kind: {"schema": {}} for kind in ("image/jpeg", "image/png", "image/webp")}
    error = {"$ref": "#/components/schemas/Error"}
    answers = {
        "200": {
            "description": summary,
            "content": _json({"$ref": f"#/components/schemas/{schema}"}),
        }
    }
    answers |= {
        str(status): {"description": text, "content": _json(error)}
        for status, text in _REFUSED.items()
    }
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "parameters": parameters,
            "requestBody": {"required": True, "content": content},
            "responses": answers,
        }
    }
