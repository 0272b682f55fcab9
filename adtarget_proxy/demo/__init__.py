"""The main job on your machine: a sandbox, a landing page behind the middleware, and one visitor who goes through it."""
