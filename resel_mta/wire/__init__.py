"""SMTP grammar, pure: content on the wire, paths and parameters, xtext, replies, capabilities."""
