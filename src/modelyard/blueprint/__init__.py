"""The metamodel, and what is computed from it: plan, fingerprints, JSON Schema.

Import from the module that owns the name, so that nobody pays for YAML or Pydantic who does not use them:

- `modelyard.blueprint.load`: `load_blueprint`, `loads_blueprint`
- `modelyard.blueprint.model`: `Blueprint` and the concepts in it
- `modelyard.blueprint.plan`: `plan`, `Plan`, `Task`, `Source`, `Placement`
- `modelyard.blueprint.code`: `CodeReader`, `Reach`
- `modelyard.blueprint.fingerprint`: `fingerprint`, `explain`
- `modelyard.blueprint.digest`: `blueprint_digest`
- `modelyard.blueprint.schema`: `json_schema`
"""
