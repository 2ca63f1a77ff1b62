"""The server: models behind HTTP, for clients of LibreTranslate, of DeepL, and for the page that it shows itself."""
