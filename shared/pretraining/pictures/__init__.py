"""Pictures with captions and exact attributes, and a judge that reads them from a picture: no network, no model."""
