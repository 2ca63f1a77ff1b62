"""Other systems' formats: leaves, which nothing else imports."""
