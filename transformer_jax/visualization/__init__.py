"""Pictures and pages: attention maps, the attention page, the report page."""
