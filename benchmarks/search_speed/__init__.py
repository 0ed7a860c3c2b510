"""Search latency and throughput, compared with Chroma, LangChain and LlamaIndex."""
