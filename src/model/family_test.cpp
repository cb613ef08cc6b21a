#include "model/family.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "model/block.h"

namespace d2q {
namespace {

TEST(FamilyTest, RowsAreFoundByEveryName) {
  EXPECT_EQ(find_hf_family("Qwen2ForCausalLM", "")->name, "qwen2");
  EXPECT_EQ(find_hf_family("", "mistral")->name, "mistral");
  EXPECT_EQ(find_gguf_family("qwen3")->name, "qwen3");
  EXPECT_EQ(find_gguf_family("llama")->name, "llama");  // also Mistral's files
  EXPECT_EQ(family_named("mistral").hf_model_type, "mistral");
  EXPECT_EQ(family_names(), "llama, mistral, qwen2, qwen3, phi3, opt");
}

TEST(FamilyTest, UnknownNamesGiveNothing) {
  EXPECT_EQ(find_gguf_family("falcon"), nullptr);
  EXPECT_EQ(find_gguf_family(""), nullptr);  // OPT has no GGUF architecture
  EXPECT_EQ(find_hf_family("", "falcon"), nullptr);
  EXPECT_EQ(find_hf_family("LlamaForSequenceClassification", "llama"), nullptr);
  EXPECT_THROW(family_named("falcon"), InternalError);
}

TEST(FamilyTest, NamesAreTranslatedToGguf) {
  const Family& family = family_named("qwen3");
  EXPECT_EQ(gguf_tensor_name(family, "model.layers.12.mlp.up_proj.weight"), "blk.12.ffn_up.weight");
  EXPECT_EQ(gguf_tensor_name(family, "model.layers.0.self_attn.q_proj.bias"), "blk.0.attn_q.bias");
  EXPECT_EQ(gguf_tensor_name(family, "model.layers.3.self_attn.q_norm.weight"),
            "blk.3.attn_q_norm.weight");
  EXPECT_EQ(gguf_tensor_name(family, "model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(gguf_tensor_name(family, "model.norm.weight"), "output_norm.weight");
  EXPECT_EQ(gguf_tensor_name(family, "lm_head.weight"), "output.weight");
}

TEST(FamilyTest, NamesThatTheFamilyLacksGiveNone) {
  const Family& llama = family_named("llama");
  for (const char* name :
       {"", "weight", "lm_head", "model.layers.3.self_attn.q_norm.weight",
        "model.layers..mlp.up_proj.weight", "model.layers.x.mlp.up_proj.weight",
        "model.layers.-1.mlp.up_proj.weight", "model.layers.1.mlp.side_proj.weight"}) {
    EXPECT_EQ(gguf_tensor_name(llama, name), "") << name;
  }
}

TEST(FamilyTest, EveryModuleOfEveryRowHasItsOwnNames) {
  for (const Family& family : families()) {
    const ModuleNames& m = family.modules;
    std::set<std::string_view> hf;
    std::set<std::string_view> gguf;
    int n = 0;
    int n_gguf = 0;
    for (const ModuleName& name : all_modules(m)) {
      if (name.hf.empty()) continue;
      ++n;
      hf.insert(name.hf);
      if (name.gguf.empty()) continue;  // a part of a fused matrix, or no architecture at all
      ++n_gguf;
      gguf.insert(name.gguf);
    }
    EXPECT_EQ(hf.size(), static_cast<size_t>(n)) << family.name;
    EXPECT_EQ(gguf.size(), static_cast<size_t>(n_gguf)) << family.name;
    EXPECT_EQ(n_gguf > 0, !family.gguf_architecture.empty()) << family.name;
    EXPECT_EQ(family.qk_norm, !m.q_norm.hf.empty()) << family.name;
    EXPECT_EQ(family.gated_mlp, !m.gate.hf.empty()) << family.name;
  }
}

TEST(FamilyTest, LinearsAreNamedByLayerAndProjection) {
  ModelConfig config;
  config.family = "llama";
  EXPECT_EQ(linear_name(config, 3, "down_proj"), "model.layers.3.mlp.down_proj");
  EXPECT_EQ(linear_name(config, 11, "q_proj"), "model.layers.11.self_attn.q_proj");
  EXPECT_THROW(linear_name(config, 0, "side_proj"), InternalError);
}

}  // namespace
}  // namespace d2q
