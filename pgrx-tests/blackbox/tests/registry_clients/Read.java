// Reads a record with a deserializer of Apicurio Registry and prints it: Read.java BROKERS REGISTRY TOPIC DESERIALIZER
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;

public class Read {
    public static void main(String[] arguments) {
        Map<String, Object> config = Map.of(
            "bootstrap.servers", arguments[0],
            "group.id", "java-" + arguments[2],
            "auto.offset.reset", "earliest",
            "key.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer",
            "value.deserializer", arguments[3],
            "apicurio.registry.url", arguments[1],
            "apicurio.registry.id-handler", "io.apicurio.registry.serde.Default4ByteIdHandler",
            "apicurio.registry.use-id", "contentId");
        try (KafkaConsumer<byte[], Object> consumer = new KafkaConsumer<>(config)) {
            consumer.subscribe(List.of(arguments[2]));
            for (int poll = 0; poll < 120; poll++) {
                for (ConsumerRecord<byte[], Object> record : consumer.poll(Duration.ofMillis(500))) {
                    System.out.println(record.value());
                    return;
                }
            }
        }
        System.exit(1);
    }
}
