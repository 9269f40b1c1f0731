kafka:
	@tools/kafka/fetch.sh
.PHONY: kafka
