"""The tools of agents, by the Model Context Protocol: at `/mcp` of the search app, and over stdio."""
