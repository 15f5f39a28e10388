"""Several jobs behind one verb: ask, trace. No job lives here; each calls those of ingest and scoring."""
