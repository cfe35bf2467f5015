package dev.fanout.client;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.protobuf.ByteString;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Optional;

/** JSON documents in UTF-8. */
final class Json {
    /** Makes values. */
    static final JsonNodeFactory MAKE = JsonNodeFactory.instance;

    private static final JsonMapper MAPPER =
            JsonMapper.builder().enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).build();

    private Json() {}

    /** The value of a text; empty if it is no JSON in UTF-8. */
    static Optional<JsonNode> read(ByteString text) {
        try {
            ByteBuffer bytes = text.asReadOnlyByteBuffer();
            return Optional.of(MAPPER.readTree(StandardCharsets.UTF_8.newDecoder().decode(bytes).toString()));
        } catch (CharacterCodingException | JsonProcessingException wrong) {
            return Optional.empty();
        }
    }

    /** The object of a text that a server sent; null if the text is empty. */
    static ObjectNode object(ByteString text) {
        if (text.isEmpty()) {
            return null;
        }
        JsonNode value = read(text).orElseThrow(() -> new AssertionError("the server sent no JSON"));
        if (value instanceof ObjectNode object) {
            return object;
        }
        throw new AssertionError("the server sent no JSON object");
    }

    /** The shortest text of a value. */
    static ByteString text(JsonNode value) {
        try {
            return ByteString.copyFrom(MAPPER.writeValueAsString(value), StandardCharsets.UTF_8);
        } catch (JsonProcessingException impossible) {
            throw new AssertionError("a JSON value has a text", impossible);
        }
    }
}
