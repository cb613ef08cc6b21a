// Exported models against the ones they come from: the same logits through our own readers.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "export/export_gguf.h"
#include "export/export_hf.h"
#include "format/json_file.h"
#include "model/fake_weights.h"
#include "model/transformer.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

/// Which norms of a model get shifts, as quantization gives them.
struct Shifts {
  bool attention = false;
  bool mlp = false;
  bool final = false;
};

class ExportTest : public ::testing::Test {
 protected:
  /// FakeWeights as an HF folder with a tokenizer.
  fs::path write_model(ModelConfig config, const Shifts& shifts) {
    config.vocab_size = 420;  // the tokenizer's
    const fs::path path = folder_.path() / "model";
    fs::remove_all(path);
    fs::create_directories(path);
    folder_.write("model/config.json", config_to_hf(config).dump());
    fs::copy_file(fs::path(D2Q_TEST_DATA) / "tokenizer_smollm.json", path / "tokenizer.json");
    const test::FakeWeights weights(config);
    const ModuleNames& m = family_named(config.family).modules;
    std::vector<std::pair<std::string, Matrix<float>>> tensors;
    const auto add = [&](const ModuleName& module, int64_t layer, bool shifted) {
      if (module.hf.empty()) return;
      const std::string name = module_name(module.hf, layer);
      for (const char* suffix : {".weight", ".bias"}) {
        if (weights.has(name + suffix))
          tensors.emplace_back(name + suffix, weights.load(name + suffix));
      }
      if (!shifted || weights.has(name + ".bias")) return;
      Matrix<float> shift(1, config.hidden_size);
      for (int64_t j = 0; j < shift.cols(); ++j) shift(0, j) = 0.1f * static_cast<float>(j % 7 - 2);
      tensors.emplace_back(name + ".bias", std::move(shift));
    };
    for (const ModuleName& module : all_modules(m)) {
      const bool is_layered = module.hf.find("{}") != std::string_view::npos;
      const bool shifted = (module.hf == m.attention_norm.hf && shifts.attention) ||
                           (module.hf == m.mlp_norm.hf && shifts.mlp) ||
                           (module.hf == m.final_norm.hf && shifts.final);
      for (int64_t layer = 0; layer < (is_layered ? config.n_layers : 1); ++layer)
        add(module, layer, shifted);
    }
    std::vector<SafetensorsSpec> specs;
    for (const auto& [name, values] : tensors) {
      std::vector<int64_t> shape = {values.cols()};
      if (values.rows() != 1) shape.insert(shape.begin(), values.rows());
      specs.push_back({name, SafetensorsType::kF32, shape});
    }
    SafetensorsWriter writer(path / "model.safetensors", specs);
    for (const auto& [name, values] : tensors) writer.write(name, std::as_bytes(values.span()));
    writer.finish();
    return path;
  }

  Matrix<float> logits(const fs::path& model) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 24; ++i) ids.push_back(i * 17 % 420);
    Transformer transformer(*device_, open_model(model), DType::kF32);
    const Tensor result = transformer.forward(ids, 24);
    Matrix<float> values(result.rows(), result.cols());
    device_->download(result, values.data());
    return values;
  }

  /// max|a - b| / max|b|.
  double distance(const fs::path& exported, const fs::path& model) {
    const Matrix<float> a = logits(exported);
    const Matrix<float> b = logits(model);
    double difference = 0.0;
    double largest = 0.0;
    for (int64_t i = 0; i < b.size(); ++i) {
      const double error = std::abs(static_cast<double>(a.data()[i] - b.data()[i]));
      difference = error <= difference ? difference : error;
      largest = std::max(largest, std::abs(static_cast<double>(b.data()[i])));
    }
    return difference / largest;
  }

  fs::path out(const std::string& name) const { return folder_.path() / name; }

  HfExportOptions in_f32() const {
    HfExportOptions options;
    options.dtype = SafetensorsType::kF32;
    options.overwrite = true;
    return options;
  }
  GgufExportOptions in_gguf(GgufType type) const {
    GgufExportOptions options;
    options.type = type;
    options.overwrite = true;
    return options;
  }

  testing::TempFolder folder_;
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(ExportTest, EveryFamilyKeepsItsLogitsAsAFolderAndAsAFile) {
  for (const Family& family : families()) {
    SCOPED_TRACE(family.name);
    const fs::path model = write_model(test::small_config(std::string(family.name)), {});
    export_hf(model, out("hf"), in_f32(), {});
    EXPECT_EQ(distance(out("hf"), model), 0.0);  // the same f32 weights
    if (family.gguf_architecture.empty()) {
      D2Q_EXPECT_ERROR(export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {}),
                       ErrorCode::kUnsupported, "no architecture in llama.cpp");
      continue;
    }
    export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {});
    EXPECT_EQ(distance(out("m.gguf"), model), 0.0);
  }
}

TEST_F(ExportTest, ShiftsBecomeBiasesWhereTheArchitectureHasThem) {
  struct Case {
    const char* family;
    Shifts shifts;
    size_t moved;
    const char* exported_family;
  };
  for (const Case& c : {Case{"llama", {true, true, false}, 4, "llama"},
                        Case{"mistral", {true, true, false}, 4, "llama"},
                        Case{"qwen2", {true, false, false}, 2, "qwen2"},
                        Case{"qwen3", {true, false, false}, 2, "qwen3"},
                        Case{"opt", {true, true, true}, 0, "opt"}}) {
    SCOPED_TRACE(c.family);
    const fs::path model = write_model(test::small_config(c.family), c.shifts);
    const nlohmann::json report = export_hf(model, out("hf"), in_f32(), {});
    EXPECT_EQ(report["shifts_moved"].size(), c.moved);
    EXPECT_EQ(report["family"], c.exported_family);
    // Sums of 48 products in another order, through two blocks.
    EXPECT_LE(distance(out("hf"), model), 1e-5);
    if (std::string(c.family) != "opt") {
      const SafetensorsFolder exported(out("hf"));
      for (const auto& file : exported.files()) {
        for (const SafetensorsTensor& tensor : file->tensors())
          EXPECT_FALSE(tensor.name.ends_with("norm.bias")) << tensor.name;
      }
    }
  }
  const fs::path model = write_model(test::small_config("llama"), {true, true, false});
  EXPECT_EQ(export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {})["shifts_moved"].size(),
            4u);
  EXPECT_LE(distance(out("m.gguf"), model), 1e-5);
  const nlohmann::json config = [&] {
    export_hf(model, out("hf"), in_f32(), {});
    return read_json_file(out("hf") / "config.json");
  }();
  EXPECT_EQ(config["mlp_bias"], true);
  EXPECT_EQ(config["attention_bias"], true);
}

TEST_F(ExportTest, ShiftsWithoutAPlaceAreRefusedOrLeftOutWhenTold) {
  fs::path model = write_model(test::small_config("llama"), {false, true, true});
  D2Q_EXPECT_ERROR(export_hf(model, out("hf"), in_f32(), {}), ErrorCode::kUnsupported,
                   "--no-final-dac");
  EXPECT_FALSE(fs::exists(out("hf")));
  HfExportOptions options = in_f32();
  options.drop_shifts = true;
  EXPECT_EQ(export_hf(model, out("hf"), options, {})["shifts_dropped"],
            nlohmann::json({"model.norm"}));
  EXPECT_GT(distance(out("hf"), model), 1e-3);
  model = write_model(test::small_config("qwen3"), {false, true, false});
  D2Q_EXPECT_ERROR(export_hf(model, out("hf"), in_f32(), {}), ErrorCode::kUnsupported,
                   "--no-dac --no-shift");
}

TEST_F(ExportTest, WindowsThatLlamaCppDoesNotApplyAreRefused) {
  for (const char* family : {"mistral", "qwen2", "phi3"}) {
    SCOPED_TRACE(family);
    ModelConfig config = test::small_config(family);
    config.sliding_window = config.max_positions - 1;
    const fs::path model = write_model(config, {});
    D2Q_EXPECT_ERROR(export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {}),
                     ErrorCode::kUnsupported, "sliding window");
    EXPECT_FALSE(fs::exists(out("m.gguf")));
    export_hf(model, out("hf"), in_f32(), {});
    EXPECT_EQ(open_model(out("hf"))->config().sliding_window, config.sliding_window);
  }
}

TEST_F(ExportTest, NarrowTypesRoundAndShardsAreRead) {
  const fs::path model = write_model(test::small_config("llama"), {});
  HfExportOptions options;
  options.shard_bytes = 20'000;
  options.overwrite = true;
  EXPECT_GT(export_hf(model, out("hf"), options, {})["files"].get<int>(), 3);
  // Relative steps of 2^-11 and 2^-8 on every weight, through two blocks and the head.
  EXPECT_LE(distance(out("hf"), model), 5e-3);
  options.dtype = SafetensorsType::kBF16;
  export_hf(model, out("hf"), options, {});
  EXPECT_LE(distance(out("hf"), model), 5e-2);
  for (const auto& [type, bound] :
       {std::pair{GgufType::kF16, 5e-3}, {GgufType::kBF16, 5e-2}, {GgufType::kQ8_0, 5e-2}}) {
    export_gguf(model, out("m.gguf"), in_gguf(type), {});
    EXPECT_LE(distance(out("m.gguf"), model), bound) << to_string(type);
  }
}

TEST_F(ExportTest, RopeScalingsComeBackFromGguf) {
  RopeScaling llama3;
  llama3.kind = RopeScaling::Kind::kLlama3;
  llama3.factor = 8.0;
  llama3.original_max_positions = 8192;
  RopeScaling linear;
  linear.kind = RopeScaling::Kind::kLinear;
  linear.factor = 4.0;
  RopeScaling yarn;
  yarn.kind = RopeScaling::Kind::kYarn;
  yarn.factor = 4.0;
  yarn.original_max_positions = 16;
  RopeScaling longrope;
  longrope.kind = RopeScaling::Kind::kLong;
  longrope.original_max_positions = 16;  // the test's sequences are longer
  longrope.attention_factor = 1.25;
  longrope.short_factors.assign(8, 1.0);
  longrope.long_factors = {1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5};
  for (const RopeScaling& rope : {llama3, linear, yarn, longrope}) {
    ModelConfig config =
        test::small_config(rope.kind == RopeScaling::Kind::kLong ? "phi3" : "llama");
    config.rope_scaling = rope;
    const fs::path model = write_model(config, {});
    export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {});
    EXPECT_EQ(open_model(out("m.gguf"))->config().rope_scaling.kind, rope.kind);
    EXPECT_LE(distance(out("m.gguf"), model), 1e-5);
  }
}

TEST_F(ExportTest, TheChatTemplateOfAGgufFileIsTheOneThatChatUses) {
  const fs::path model = write_model(test::small_config("llama"), {});
  const auto exported = [&](const char* variant) {
    export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {});
    const auto found = find_chat_template(out("m.gguf"), variant);
    return found ? found->text : "none";
  };
  EXPECT_EQ(exported("default"), "none");
  folder_.write("model/tokenizer_config.json", R"({"chat_template": [
      {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]})");
  EXPECT_EQ(exported("default"), "plain");
  EXPECT_EQ(exported("tool_use"), "tools");
  folder_.write("model/chat_template.json", R"({"chat_template": "of its own"})");
  EXPECT_EQ(exported("default"), "of its own");
  folder_.write("model/chat_template.jinja", "newer");
  EXPECT_EQ(exported("default"), "newer");
  EXPECT_EQ(exported("tool_use"), "newer");
}

TEST_F(ExportTest, SpecialTokensAroundATextComeBackFromGguf) {
  const fs::path model = write_model(test::small_config("llama"), {});
  nlohmann::json tokenizer = read_json_file(model / "tokenizer.json");
  const nlohmann::json token = tokenizer["added_tokens"][0];
  const std::string name = token["content"];
  const nlohmann::json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const nlohmann::json special = {{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  folder_.write("model/tokenizer_config.json",
                nlohmann::json{{"bos_token", name}, {"eos_token", name}}.dump());
  using nlohmann::json;
  for (const json& single : {json::array({text}), json::array({special, text}),
                             json::array({text, special}), json::array({special, text, special})}) {
    tokenizer["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", single},
        {"pair", nlohmann::json::array()},
        {"special_tokens", {{name, {{"id", name}, {"ids", {token["id"]}}, {"tokens", {name}}}}}}};
    folder_.write("model/tokenizer.json", tokenizer.dump());
    export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {});
    EXPECT_EQ(load_tokenizer(out("m.gguf"))->encode("some text", true),
              load_tokenizer(model)->encode("some text", true))
        << single;
  }
}

TEST_F(ExportTest, NothingElseIsReplaced) {
  const fs::path model = write_model(test::small_config("llama"), {});
  HfExportOptions options = in_f32();
  options.overwrite = false;
  fs::create_directories(out("other"));
  folder_.write("other/notes.txt", "mine");
  D2Q_EXPECT_ERROR(export_hf(model, out("other"), options, {}), ErrorCode::kInvalidArgument,
                   "--overwrite");
  D2Q_EXPECT_ERROR(export_hf(model, out("other"), in_f32(), {}), ErrorCode::kInvalidArgument,
                   "not a model folder");
  GgufExportOptions gguf;
  D2Q_EXPECT_ERROR(export_gguf(model, out("other"), gguf, {}), ErrorCode::kInvalidArgument,
                   "a folder, expected a file");
  EXPECT_TRUE(fs::exists(out("other") / "notes.txt"));
  // A clone, say: what has folders in it was not exported.
  fs::create_directories(out("clone") / ".git");
  folder_.write("clone/config.json", "{}");
  D2Q_EXPECT_ERROR(export_hf(model, out("clone"), in_f32(), {}), ErrorCode::kInvalidArgument,
                   "not a model folder");
}

TEST_F(ExportTest, TheModelThatIsExportedIsNotReplaced) {
  const fs::path model = write_model(test::small_config("llama"), {});
  D2Q_EXPECT_ERROR(export_hf(model, model / "", in_f32(), {}), ErrorCode::kInvalidArgument,
                   "is the model");
  D2Q_EXPECT_ERROR(export_hf(model, model.parent_path(), in_f32(), {}), ErrorCode::kInvalidArgument,
                   "holds the model");
  export_gguf(model, out("m.gguf"), in_gguf(GgufType::kF32), {});
  fs::create_symlink("m.gguf", out("link.gguf"));
  D2Q_EXPECT_ERROR(export_gguf(out("m.gguf"), out("link.gguf"), in_gguf(GgufType::kF16), {}),
                   ErrorCode::kInvalidArgument, "is the model");
  EXPECT_NO_THROW(open_model(model));
}

TEST_F(ExportTest, AnUnfinishedRunBesideTheOutputStays) {
  const fs::path model = write_model(test::small_config("llama"), {});
  fs::create_directories(out("hf.partial"));
  folder_.write("hf.partial/run.json", "{}");
  HfExportOptions options = in_f32();
  options.overwrite = false;
  D2Q_EXPECT_ERROR(export_hf(model, out("hf"), options, {}), ErrorCode::kInvalidArgument,
                   "unfinished run");
  EXPECT_TRUE(fs::exists(out("hf.partial") / "run.json"));
  export_hf(model, out("hf"), in_f32(), {});
  EXPECT_FALSE(fs::exists(out("hf.partial")));
}

}  // namespace
}  // namespace d2q
